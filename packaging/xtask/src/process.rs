//! Child processes that write to a log file and never outlive their owner.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition that cannot be waited for otherwise is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How much of a log's end is shown with an error.
const TAIL_BYTES: u64 = 8 * 1024;

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `log` and no input.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = append(log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        Self::spawn(name, command, log)
    }

    /// Starts `command` with its outputs as the caller has set them; `log` is where its errors go.
    pub(crate) fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("could not start {}", command.get_program().display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// The process id, for reading `/proc`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until `ready` answers with a value, and fails with the log's end if the program exits before.
    ///
    /// # Errors
    /// When the program ends first, or is not ready after `patience`.
    pub fn wait_ready<T>(
        &mut self,
        patience: Duration,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended before it was ready ({status})\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            if begun.elapsed() > patience {
                bail!(
                    "{} was not ready after {} s\n{}",
                    self.name,
                    patience.as_secs(),
                    self.log_tail()
                );
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits for the program to end by itself.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub fn wait_exit(&mut self, patience: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > patience {
                bail!(
                    "{} still runs after {} s\n{}",
                    self.name,
                    patience.as_secs(),
                    self.log_tail()
                );
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends the program with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// When the program cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the program to end, and kills it if it has not after `patience`.
    ///
    /// # Errors
    /// When the program had to be killed, or cannot be waited for.
    pub fn stop(mut self, patience: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        // The standard library has no other signal than SIGKILL.
        Command::new("sh")
            .args(["-c", "kill -TERM \"$1\"", "sh", &self.pid().to_string()])
            .status()?;
        self.wait_exit(patience)
    }

    /// The end of what the program has written, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Runs `command` to its end, feeding it `input`.
///
/// # Errors
/// When it cannot be started, or still runs after `patience`; then it is killed. Its exit status is the caller's to judge.
pub fn output(mut command: Command, input: &str, patience: Duration) -> Result<Output> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {}", command.get_program().display()))?;
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // A broken pipe means the same as its end.
            let _broken = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            bytes
        })
    };
    let stdout = reader(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = reader(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read its input may close it.
        let _closed = pipe.write_all(input.as_bytes());
    }
    let mut process = Process {
        name: shown,
        child,
        log: PathBuf::from("/dev/null"),
    };
    let status = process.wait_exit(patience)?;
    Ok(Output {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

/// Fails with both outputs unless the program ended well; then returns its standard output.
///
/// # Errors
/// When the exit status is not 0 or the output is not UTF-8.
pub fn success(done: Output, what: &str) -> Result<String> {
    if !done.status.success() {
        bail!(
            "{what} ended with {}\n{}{}",
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr).trim_end()
        );
    }
    String::from_utf8(done.stdout).with_context(|| format!("{what} wrote no UTF-8"))
}

/// Whose rights a program runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rights {
    /// Those of whoever runs this program.
    #[default]
    Own,
    /// Those that the systemd unit leaves the agent: an unprivileged user, no capability, none to be gained, and no
    /// group but `groups`. Takes root to hand out.
    Service {
        /// Supplementary groups, as the drop-ins of `packaging/systemd` grant them.
        groups: Vec<u32>,
    },
}

/// The user and group that stand for the service's own: `nobody`, which owns nothing.
pub const SERVICE_ID: u32 = 65_534;

/// A command for one of the line's own programs: it is told to end when its starter does, sees a private home, and none
/// of the caller's cloud credentials and product settings.
///
/// The end of the starter is that of the starting *thread*: start long-lived processes from one that lives as long.
#[must_use]
pub fn command(program: &Path, home: &Path) -> Command {
    command_with(program, home, &Rights::Own)
}

/// The same with other rights.
#[must_use]
pub fn command_with(program: &Path, home: &Path, rights: &Rights) -> Command {
    let mut command = with_rights(program.as_os_str(), rights);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("AWS_") || text.starts_with("ZERO_X_") || text.starts_with("MOTO_") {
            command.env_remove(&name);
        }
    }
    command
        .env("HOME", home)
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env_remove("XDG_RUNTIME_DIR")
        // Everything here is on loopback; a proxy of the user's network must not be asked for it.
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env("no_proxy", "127.0.0.1,localhost")
        .current_dir(home);
    command
}

/// Wraps `program` in util-linux' `setpriv`, so that a killed starter leaves no process behind and rights can be taken.
fn with_rights(program: &OsStr, rights: &Rights) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() && *rights == Rights::Own {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL"]);
    if let Rights::Service { groups } = rights {
        let id = SERVICE_ID.to_string();
        command.args(["--reuid", &id, "--regid", &id]);
        if groups.is_empty() {
            command.arg("--clear-groups");
        } else {
            let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
            command.args(["--groups", &groups.join(",")]);
        }
        command.args([
            "--no-new-privs",
            "--bounding-set",
            "-all",
            "--inh-caps",
            "-all",
        ]);
    }
    command.arg("--").arg(program);
    command
}

/// Opens a log for appending.
///
/// # Errors
/// When the file cannot be opened.
pub fn append(log: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("could not open the log {}", log.display()))
}

/// The last few kilobytes of a file, or a word on why there are none.
#[must_use]
pub fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => format!("(it wrote nothing to {})", log.display()),
        Ok(text) => format!("the end of {}:\n{text}", log.display()),
        Err(error) => format!("(its log {} could not be read: {error})", log.display()),
    }
}
