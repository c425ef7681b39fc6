//! Builds the programs and runs the transport's bench, which lies with the tests: it drives agents by hand.

use anyhow::Result;
use line::programs;

use crate::chores::step;

pub(crate) fn run(dev: bool, events: u32, agents: u32) -> Result<()> {
    let programs = if dev {
        programs::build()?
    } else {
        programs::build_release()?
    };
    let mut cargo = programs::cargo();
    cargo.arg("bench");
    if dev {
        cargo.args(["--profile", "dev"]);
    }
    cargo
        .args(["-p", "tests", "--bench", "transport", "--"])
        .arg(programs.hub.with_file_name(""))
        .args([events.to_string(), agents.to_string()]);
    step("the bench", &mut cargo)
}
