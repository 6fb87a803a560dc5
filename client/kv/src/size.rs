// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes as people type them.

/// Reads a number of bytes, with an optional suffix `K`, `M` or `G` for powers of 1024.
///
/// # Errors
/// A sentence for the user, when the text is not such a number or does not fit.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        other => return Err(format!("unknown unit `{other}`; use K, M or G")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|error| format!("`{digits}`: {error}"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(parse_size("65536"), Ok(65536));
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("2MiB"), Ok(2 << 20));
        for wrong in ["", "K", "1T", "-1", "1.5M", "99999999999G"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
