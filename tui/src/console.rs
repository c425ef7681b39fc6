//! The console: a terminal's view of one organisation.
//!
//! `state` decides, `screens` draws, `link` speaks with the hub; what stands here is the loop
//! between them and the terminal, which is given back however the console ends.

use std::io::{BufWriter, Stdout, Write, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::cursor::Show;
use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste, Event as Input, KeyEventKind};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use jiff::Timestamp;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::client::Client;
use crate::exit::{Exit, Failure};

mod event;
mod item;
mod keymap;
mod link;
mod screens;
mod state;
mod theme;

#[cfg(test)]
pub(crate) use screens::tests_support;

use event::{Effect, Event};
use link::Link;
use state::State;
pub(crate) use theme::Theme;

/// Inputs that are taken before the next frame: a long paste is drawn once, not letter by letter.
const BURST: usize = 1_000;

/// Inputs that wait for the loop; while it is full, they wait in the terminal.
const INPUTS: usize = 256;

/// Longest wait for a question that renews the session, when leaving.
const FAREWELL: Duration = Duration::from_secs(5);

/// Longest time between the signal to stop and standing still.
const STOPPING: Duration = Duration::from_millis(300);

/// Whether the terminal is ours, so that a panic in any thread gives it back once.
static IS_OURS: AtomicBool = AtomicBool::new(false);

/// Opens the console and returns when it is left.
///
/// # Errors
///
/// When nobody is signed in or the terminal cannot be used.
pub(crate) async fn run(org: Option<String>, theme: Theme) -> Result<ExitCode, Failure> {
    let client = Arc::new(Client::signed_in()?);
    let mut signals = Signals::new().map_err(of_terminal)?;
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        before(panic);
    }));
    let mut screen = Screen::enter().map_err(of_terminal)?;
    let ended = drive(&mut screen, &mut signals, &client, org, theme).await;
    drop(screen);
    // A renewal that is cut off would end the session.
    let _ = tokio::time::timeout(FAREWELL, client.settle()).await;
    match ended? {
        Ended::Left => Ok(Exit::Done.into()),
        Ended::Signal(name, number) => {
            let words = format!("zero-x: ended by {name}\n");
            // Nowhere is left to report that stderr is closed.
            let _ = std::io::stderr().write_all(words.as_bytes());
            // As a shell reports a program that a signal ended (POSIX.1-2024, XCU 2.8.2).
            Ok(ExitCode::from(128 + number))
        }
    }
}

fn of_terminal(error: std::io::Error) -> Failure {
    Failure::because(Exit::No, "cannot use the terminal", &error)
}

/// How the console ended.
enum Ended {
    /// Its user left it, or the terminal is gone.
    Left,
    /// A signal, by name and number.
    Signal(&'static str, u8),
}

/// Signals that the console heeds.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
    /// Ends nothing: the program was stopped and goes on.
    goes_on: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            goes_on: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
        })
    }

    /// Waits for one that ends the console.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the wait is given up.
    async fn next(&mut self) -> Ended {
        // Numbers: POSIX.1-2024, `kill`.
        tokio::select! {
            _ = self.hangup.recv() => Ended::Signal("SIGHUP", 1),
            _ = self.interrupt.recv() => Ended::Signal("SIGINT", 2),
            _ = self.terminate.recv() => Ended::Signal("SIGTERM", 15),
        }
    }
}

/// The terminal while it is ours.
struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    fn enter() -> std::io::Result<Self> {
        take_over()?;
        let writer = BufWriter::with_capacity(64 << 10, stdout());
        match Terminal::new(CrosstermBackend::new(writer)) {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// Stops this program and its group, as the shell's own `ctrl-z` would, until it is continued.
    async fn suspend(&mut self, signals: &mut Signals) -> std::io::Result<()> {
        restore();
        rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)?;
        // This thread may run on for a moment before the whole program stands still, and where no
        // shell could continue it the signal is discarded (POSIX.1-2024, XSH 2.4.3).
        let _ = tokio::time::timeout(STOPPING, signals.goes_on.recv()).await;
        take_over()?;
        // Draws all anew; `clear` would ask the terminal where its cursor is, and the thread that
        // reads would hear the answer.
        let size = self.terminal.size()?;
        self.terminal.resize(size.into())
    }

    fn copy(&mut self, text: &str) -> std::io::Result<()> {
        // OSC 52: most terminals and tmux put this on the clipboard, also over SSH.
        // Source: XTerm Control Sequences, "Operating System Commands", Ps = 5 2.
        let coded = data_encoding::BASE64.encode(text.as_bytes());
        let writer = self.terminal.backend_mut();
        write!(writer, "\x1b]52;c;{coded}\x07")?;
        std::io::Write::flush(writer)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn take_over() -> std::io::Result<()> {
    IS_OURS.store(true, Ordering::SeqCst);
    let entered = enable_raw_mode()
        .and_then(|()| crossterm::execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste));
    entered.inspect_err(|_| restore())
}

/// Gives the terminal back, once.
fn restore() {
    if !IS_OURS.swap(false, Ordering::SeqCst) {
        return;
    }
    // Each is tried even when another fails; a terminal that is gone needs none of them.
    let _ = crossterm::execute!(stdout(), DisableBracketedPaste, LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// What the loop found.
enum Found {
    Event(Event),
    Nothing,
    Ended(Ended),
}

fn of_input(input: Option<std::io::Result<Input>>) -> Found {
    match input {
        Some(Ok(Input::Key(key))) if key.kind != KeyEventKind::Release => {
            Found::Event(Event::Key(key))
        }
        Some(Ok(Input::Paste(text))) => Found::Event(Event::Paste(text)),
        Some(Ok(Input::Resize(columns, rows))) => Found::Event(Event::Resized(columns, rows)),
        Some(Ok(Input::Key(_) | Input::Mouse(_) | Input::FocusGained | Input::FocusLost)) => {
            Found::Nothing
        }
        // The terminal is gone.
        Some(Err(_)) | None => Found::Ended(Ended::Left),
    }
}

/// Reads the terminal in a thread of its own, because a read cannot be given up. The thread ends
/// with the program, or when the terminal is gone.
fn read_inputs() -> std::io::Result<mpsc::Receiver<std::io::Result<Input>>> {
    let (sender, inputs) = mpsc::channel(INPUTS);
    let read = move || {
        loop {
            let input = crossterm::event::read();
            let is_last = input.is_err();
            if sender.blocking_send(input).is_err() || is_last {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("inputs".to_owned())
        .spawn(read)?;
    Ok(inputs)
}

async fn drive(
    screen: &mut Screen,
    signals: &mut Signals,
    client: &Arc<Client>,
    org: Option<String>,
    theme: Theme,
) -> Result<Ended, Failure> {
    let (mut link, mut events) = Link::new(Arc::clone(client));
    let mut inputs = read_inputs().map_err(of_terminal)?;
    let mut state = State::new(client.address(), org, Timestamp::now());
    let size = screen.terminal.size().map_err(of_terminal)?;
    state.update(Event::Resized(size.width, size.height), Timestamp::now());
    let mut effects = state.start();
    loop {
        for effect in effects.drain(..) {
            match effect {
                Effect::Fetch { ask, org, question } => link.fetch(ask, org, question),
                Effect::Listen { listener, org } => link.listen(listener, org),
                Effect::Copy(text) => screen.copy(&text).map_err(of_terminal)?,
                Effect::Suspend => screen.suspend(signals).await.map_err(of_terminal)?,
                Effect::Quit => return Ok(Ended::Left),
            }
        }
        let drawn = screen
            .terminal
            .draw(|frame| screens::draw(frame, &state, theme));
        drawn.map_err(of_terminal)?;

        let wait = state.next_tick().duration_since(Timestamp::now());
        let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO);
        let is_idle = link.is_idle();
        // Each of these only waits; what it would have brought stays where it is.
        let found = tokio::select! {
            ended = signals.next() => Found::Ended(ended),
            input = inputs.recv() => of_input(input),
            event = events.recv() => event.map_or(Found::Nothing, Found::Event),
            ended = link.ended(), if !is_idle => match ended {
                Some(Err(error)) => {
                    return Err(Failure::because(Exit::No, "the console has failed", &error));
                }
                Some(Ok(())) | None => Found::Nothing,
            },
            () = tokio::time::sleep(wait) => Found::Event(Event::Tick),
        };
        let mut next = found;
        for _ in 0..BURST {
            match next {
                Found::Event(event) => effects.extend(state.update(event, Timestamp::now())),
                Found::Ended(ended) => return Ok(ended),
                Found::Nothing => {}
            }
            // What changes the terminal or leaves it comes before the next key.
            if effects
                .iter()
                .any(|effect| matches!(effect, Effect::Quit | Effect::Suspend))
            {
                break;
            }
            next = match inputs.try_recv() {
                Ok(input) => of_input(Some(input)),
                Err(_) => break,
            };
        }
    }
}
