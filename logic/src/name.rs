// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Names that somebody else chose, as a member of a line of `name=value` pairs.

use core::fmt;

/// Shows a name so that it cannot forge a member or a line: an equals sign, a backslash and everything but visible
/// ASCII is escaped, as in `\x20`.
pub struct Name<'a>(pub &'a [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            match byte {
                b'=' | b'\\' => write!(f, "\\x{byte:02x}")?,
                b'!'..=b'~' => write!(f, "{}", char::from(*byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString as _;

    use super::*;

    #[test]
    fn a_name_stays_one_member() {
        assert_eq!(Name(b"rxe0").to_string(), "rxe0");
        let hostile = Name(b"a state=down\n\\\xff").to_string();
        assert_eq!(hostile, r"a\x20state\x3ddown\x0a\x5c\xff");
    }
}
