// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configuration fragments, and whether Kconfig did what they ask.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::{Context as _, Result, bail};

use super::Profile;
use crate::ctx::Ctx;
use crate::exit;

/// The final fragment of a profile: `base.config`, and on top of it the profile's own.
///
/// # Errors
/// When a fragment cannot be read, or the kernel is not configured here.
pub fn fragment(ctx: &Ctx, profile: Profile) -> Result<String> {
    let names: &[&str] = match profile {
        Profile::Stock => bail!("Debian has configured the stock kernel"),
        Profile::Base => &["base"],
        Profile::Debug => &["base", "debug"],
    };
    let mut all = String::new();
    for name in names {
        let path = ctx.root.join(format!("vm/kernel/{name}.config"));
        all += &fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        all.push('\n');
    }
    Ok(all)
}

/// An option that a fragment asks for and the configuration does not have.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    option: String,
    wanted: String,
    got: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: wanted {}, got {}",
            self.option, self.wanted, self.got
        )
    }
}

/// Compares a fragment with the resulting `.config`.
pub fn refused(fragment: &str, config: &str) -> Vec<Refused> {
    let got = options(config);
    // A later line of a fragment overrides an earlier one, as it does in Kconfig.
    options(fragment)
        .into_iter()
        .filter_map(|(option, wanted)| {
            let got = got.get(option).copied().unwrap_or("n");
            (got != wanted).then(|| Refused {
                option: option.to_owned(),
                wanted: wanted.to_owned(),
                got: got.to_owned(),
            })
        })
        .collect()
}

/// Fails when anything was refused, and names all of it.
///
/// # Errors
/// The list of refused options with the likely cause.
pub fn check(fragment: &str, config: &str) -> Result<()> {
    let refused = refused(fragment, config);
    if refused.is_empty() {
        return Ok(());
    }
    let list = refused
        .iter()
        .map(|r| format!("  {r}\n"))
        .collect::<String>();
    Err(exit::coded(
        exit::FAILED,
        format!(
            "Kconfig refused options of vm/kernel/*.config:\n{list}\
             An option is refused when one that it depends on is missing, or when it is not in \
             this kernel: add the dependency or remove the line."
        ),
    ))
}

/// Option to value; `# CONFIG_X is not set` is the value `n`.
fn options(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            if let Some(rest) = line.strip_prefix("# CONFIG_") {
                let name = rest.strip_suffix(" is not set")?;
                return Some((&line[2..2 + "CONFIG_".len() + name.len()], "n"));
            }
            line.strip_prefix("CONFIG_")?;
            line.split_once('=')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_and_given_passes() {
        let fragment = "CONFIG_A=y\nCONFIG_B=m\nCONFIG_N=8\n# CONFIG_C is not set\n";
        let config = "# Linux\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_N=8\nCONFIG_EXTRA=y\n";
        assert_eq!(refused(fragment, config), []);
        check(fragment, config).unwrap();
    }

    #[test]
    fn everything_refused_is_listed() {
        let fragment = "CONFIG_A=y\nCONFIG_B=m\nCONFIG_N=8\n# CONFIG_C is not set\n# a comment\n";
        let config = "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_N=64\nCONFIG_C=y\n";
        let text = check(fragment, config).unwrap_err().to_string();
        for line in [
            "CONFIG_A: wanted y, got n",
            "CONFIG_B: wanted m, got y",
            "CONFIG_N: wanted 8, got 64",
            "CONFIG_C: wanted n, got y",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_later_line_overrides_an_earlier_one() {
        let fragment = "CONFIG_A=y\n# CONFIG_A is not set\n";
        assert_eq!(refused(fragment, ""), []);
        assert_eq!(refused(fragment, "CONFIG_A=y").len(), 1);
    }

    #[test]
    fn an_option_that_is_absent_from_the_configuration_is_off() {
        assert_eq!(refused("CONFIG_A=n\n", ""), []);
        assert_eq!(refused("CONFIG_A=y\n", "").len(), 1);
    }
}
