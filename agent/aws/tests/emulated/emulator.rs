//! The emulated account that the tests read: the demo's emulator, filled by `seed.py`.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;

/// Names a Python that has moto, flask and boto3.
const VARIABLE: &str = "ZERO_X_MOTO_PYTHON";

/// A running emulator; it ends when its standard input closes.
pub(crate) struct Emulator {
    pub(crate) endpoint: String,
    python: PathBuf,
    process: Child,
    stdin: Option<ChildStdin>,
}

impl Emulator {
    /// Starts and fills an emulator, or says why the test is skipped.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let Some(python) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
            eprintln!("skipped: {test}: {VARIABLE} is not set");
            return None;
        };
        let script = checkout().join("packaging/demo/emulator.py");
        let mut process = command(&python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let announced: Value = serde_json::from_str(&line).unwrap();
        let emulator = Self {
            endpoint: announced["endpoint"].as_str().unwrap().to_owned(),
            python,
            process,
            stdin,
        };
        emulator.run("seed.py", &[]);
        Some(emulator)
    }

    /// Runs a script of this folder against the emulator and returns what it prints.
    pub(crate) fn run(&self, script: &str, arguments: &[&str]) -> String {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests");
        let done = command(&self.python)
            .arg(folder.join(script))
            .arg(&self.endpoint)
            .args(arguments)
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{script}: {complaint}");
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _status = self.process.wait();
    }
}

/// A Python without the user's cloud settings.
fn command(python: &PathBuf) -> Command {
    let mut command = Command::new(python);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
}

fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
