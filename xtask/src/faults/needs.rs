// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options that a guest's kernel must have been configured with.

use std::fs;

use anyhow::{Context as _, Result};

use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::guest::session::TestEnv;

/// Fails unless the kernel has these options; the error names those that it lacks, and a profile
/// that has them.
///
/// # Errors
/// When one is missing.
pub(crate) fn require(ctx: &Ctx, test_env: &TestEnv, options: &[&str]) -> Result<()> {
    let path = &test_env.kernel().config;
    let config =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let missing = missing(&config, options);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lacking = Vec::new();
    for option in missing {
        let mut profiles = Vec::new();
        for profile in ["base", "debug"] {
            let fragment = ctx.root.join(format!("vm/kernel/{profile}.config"));
            let text = fs::read_to_string(&fragment).unwrap_or_default();
            if has(&text, option) {
                profiles.push(profile);
            }
        }
        let there = match profiles.first() {
            // What base has, debug has too.
            Some(profile) => format!("--profile {profile} has it"),
            None => "no profile has it: see vm/kernel/*.config".to_owned(),
        };
        lacking.push(format!("{option} ({there})"));
    }
    Err(exit::environment(format!(
        "the kernel of profile {} lacks {}",
        test_env.profile.name(),
        lacking.join(", ")
    )))
}

fn has(config: &str, option: &str) -> bool {
    config.lines().any(|line| {
        line.strip_prefix(option)
            .is_some_and(|rest| rest == "=y" || rest == "=m")
    })
}

fn missing<'a>(config: &str, options: &[&'a str]) -> Vec<&'a str> {
    let lacks = |option: &&&str| !has(config, option);
    options.iter().filter(lacks).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_is_there() {
        let config = "CONFIG_KCOV=y\n# CONFIG_FAILSLAB is not set\nCONFIG_KCOV_MORE=y\n";
        let options = ["CONFIG_KCOV", "CONFIG_FAILSLAB", "CONFIG_KCO"];
        assert_eq!(missing(config, &options), ["CONFIG_FAILSLAB", "CONFIG_KCO"]);
    }
}
