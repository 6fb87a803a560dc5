// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the harness: guests in which something is wrong on purpose, and the exit code that each
//! must end in. A harness that cannot fail proves nothing.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::guest::session::TestEnv;
use dmaplane_vmtest::guest::suite::{Built, Selection, Suite};
use dmaplane_vmtest::guest::verdict::Kind;
use dmaplane_vmtest::kernel::Profile;

/// One thing that is wrong on purpose.
struct Case {
    /// The test in tests/guest/tests/selftest.rs.
    test: &'static str,
    /// What must come out.
    kind: Kind,
    /// What a reason must contain.
    says: &'static str,
    /// How long the tests may take, unscaled.
    limit: Option<Duration>,
}

const CASES: [Case; 5] = [
    Case {
        test: "passes",
        kind: Kind::Ok,
        says: "",
        limit: None,
    },
    Case {
        test: "fails",
        kind: Kind::Tests,
        says: "on purpose",
        limit: None,
    },
    Case {
        test: "splats",
        kind: Kind::Splat,
        says: "during selftest::splats",
        limit: None,
    },
    Case {
        test: "leaks",
        kind: Kind::Leak,
        says: "gauge",
        limit: None,
    },
    Case {
        test: "hangs",
        kind: Kind::Hang,
        says: "time limit",
        limit: Some(Duration::from_secs(5)),
    },
];

/// Runs all cases; fails if one of them does not fail as it should.
pub(crate) fn run(ctx: &Ctx, test_env: &TestEnv) -> Result<ExitCode> {
    let built = Built::build(ctx, test_env)?;
    let mut wrong = 0;
    for case in &CASES {
        let Case {
            test,
            kind,
            says,
            limit,
        } = case;
        let filter = Some(format!("binary(selftest) & test(={test})"));
        // Debian's kernel has no lkdtm.
        let modules = match test_env.profile {
            Profile::Stock => Vec::new(),
            Profile::Base | Profile::Debug => vec!["lkdtm"],
        };
        let selection = Selection {
            filter,
            ignore_default: true,
            modules,
            ..Selection::default()
        };
        let suite = Suite::select(ctx, test_env, &built, selection)?;
        let progress = ctx
            .ui
            .spinner(format!("self-test {}: {test}", test_env.title()));
        let mut run = suite.run(ctx, test_env, 0, *limit, &mut |_| {})?;
        drop(progress);
        let reasons: Vec<_> = run
            .verdict
            .reasons
            .iter()
            .map(|(_, reason)| reason)
            .collect();
        let said = says.is_empty() || reasons.iter().any(|reason| reason.contains(says));
        let got = run.verdict.kind;
        if got == *kind && said {
            println!("self-test {test}: ok, exit code {}", got.code());
            continue;
        }
        wrong += 1;
        println!(
            "self-test {test}: FAILED: exit code {} instead of {}, or nothing about {says:?}",
            got.code(),
            kind.code()
        );
        for reason in reasons {
            println!("  {reason}");
        }
        println!("  artefacts: {}", run.outcome.dir.keep(ctx)?.display());
    }
    let verdict = if wrong == 0 {
        "ok".to_owned()
    } else {
        format!("FAILED, {wrong} wrong")
    };
    println!(
        "vm-test --self-test {}: {verdict}, {} cases",
        test_env.title(),
        CASES.len()
    );
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::FAILED)
    })
}
