//! Records the commit of the build, for `servable --version`.
//!
//! A new commit alone does not trigger a rebuild. `make build` sets the commit of a wheel.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SERVABLE_COMMIT");
    let commit = std::env::var("SERVABLE_COMMIT").ok().or_else(head).unwrap_or_default();
    println!("cargo::rustc-env=SERVABLE_COMMIT={}", commit.trim());
}

/// The commit that is checked out; `None` outside a clone, such as in a source distribution.
fn head() -> Option<String> {
    let told = Command::new("git").args(["rev-parse", "--short=10", "HEAD"]).output().ok()?;
    told.status.success().then(|| String::from_utf8_lossy(&told.stdout).into_owned())
}
