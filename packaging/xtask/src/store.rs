//! Runs the benches of the store at scale, which lie with the store.

use anyhow::Result;
use line::programs;
use line::usage::machine;

use crate::chores::step;

pub(crate) fn run(dev: bool, rows: u64, events: u64, organisations: u64) -> Result<()> {
    println!("machine                         {}", machine());
    let bench = |words: [&str; 2]| {
        let mut cargo = programs::cargo();
        cargo.arg("bench");
        if dev {
            cargo.args(["--profile", "dev"]);
        }
        cargo.args(["-p", "store", "--bench", "scale", "--"]);
        step("the bench", cargo.args(words))
    };
    if rows > 0 {
        bench(["lists", &rows.to_string()])?;
    }
    if events > 0 {
        bench(["events", &events.to_string()])?;
    }
    if organisations > 0 {
        let mut cargo = programs::cargo();
        cargo.args(["test", "-p", "store", "--test", "thousand"]);
        if !dev {
            cargo.arg("--release");
        }
        cargo.args(["--", "--nocapture"]);
        cargo.env("ZERO_X_ORGS", organisations.to_string());
        step("many organisations", &mut cargo)?;
    }
    Ok(())
}
