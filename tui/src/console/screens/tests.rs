//! Whole frames, at the sizes that people have.

use crossterm::event::{KeyCode, KeyModifiers};
use jiff::SignedDuration;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::draw;
use crate::console::event::{Effect, Event, FetchError, Payload, Question, Rows};
use crate::console::state::tests::Driver;
use crate::console::theme::Theme;

use super::tests_support::{finding, overview, rows, who};

const SIZES: [(u16, u16); 3] = [(80, 24), (100, 30), (160, 50)];

fn terminal(driver: &mut Driver, width: u16, height: u16, theme: Theme) -> Terminal<TestBackend> {
    driver.event(Event::Resized(width, height));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw(frame, &driver.state, theme))
        .unwrap();
    terminal
}

/// The text of a frame, without colour: nothing may get lost by that.
fn frame(driver: &mut Driver, width: u16, height: u16) -> String {
    text(&terminal(driver, width, height, Theme::new(false, false)))
}

fn text(terminal: &Terminal<TestBackend>) -> String {
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width).max(1);
    let rows = buffer.content().chunks(width);
    let rows = rows.map(|row| {
        let row: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        row.trim_end().to_owned()
    });
    rows.collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn snapshots(name: &str, make: impl FnOnce() -> Driver) {
    let mut driver = make();
    for (width, height) in SIZES {
        let frame = frame(&mut driver, width, height);
        insta::assert_snapshot!(format!("{name}_{width}x{height}"), frame);
    }
}

fn on_overview() -> Driver {
    let mut driver = Driver::new();
    driver.well();
    driver
}

fn failing(error: FetchError) -> Driver {
    let mut driver = on_overview();
    driver.typed("2");
    driver.answer(|_| Err(error.clone()));
    driver
}

#[test]
fn overview_full() {
    snapshots("overview_full", on_overview);
}

#[test]
fn overview_loading() {
    snapshots("overview_loading", || {
        let mut driver = Driver::new();
        driver.wait(1);
        driver
    });
}

#[test]
fn overview_offline() {
    snapshots("overview_offline", || {
        let mut driver = on_overview();
        driver.wait(11);
        driver
            .effects
            .retain(|effect| matches!(effect, Effect::Fetch { .. }));
        driver.wait(180);
        driver.away();
        driver
    });
}

#[test]
fn overview_of_a_hub_that_was_never_reached() {
    snapshots("overview_unreached", || {
        let mut driver = Driver::new();
        driver.away();
        driver
    });
}

#[test]
fn overview_of_an_empty_organisation() {
    snapshots("overview_empty", || {
        let mut driver = Driver::new();
        driver.answer(|question| {
            Ok(match question {
                Question::Who => Payload::Who(who()),
                Question::Overview | Question::Rows { .. } | Question::One { .. } => {
                    Payload::Overview(protocol::api::Overview::default())
                }
            })
        });
        driver
    });
}

#[test]
fn overview_forbidden() {
    snapshots("overview_forbidden", || {
        let mut driver = Driver::new();
        driver.answer(|question| match question {
            Question::Who => Ok(Payload::Who(who())),
            Question::Overview | Question::Rows { .. } | Question::One { .. } => {
                Err(FetchError::Forbidden("your role is none".into()))
            }
        });
        driver
    });
}

#[test]
fn overview_of_a_session_that_has_ended() {
    snapshots("overview_signed_out", || {
        let mut driver = Driver::new();
        driver.answer(|_| Err(FetchError::SignedOut));
        driver
    });
}

#[test]
fn findings_full() {
    snapshots("findings_full", Driver::on_findings);
}

#[test]
fn findings_marked_and_filtered() {
    snapshots("findings_filter", || {
        let mut driver = Driver::on_findings();
        driver.typed(" jj");
        driver.typed("/severity>=high bucket");
        driver
    });
}

#[test]
fn findings_with_a_filter_that_cannot_be_read() {
    snapshots("findings_filter_error", || {
        let mut driver = Driver::on_findings();
        driver.typed("/severty=high");
        driver
    });
}

#[test]
fn findings_detail() {
    snapshots("findings_detail", || {
        let mut driver = Driver::on_findings();
        driver.typed("jjjj");
        driver.key(KeyCode::Enter);
        driver.well();
        driver
    });
}

#[test]
fn findings_evidence() {
    snapshots("findings_evidence", || {
        let mut driver = Driver::on_findings();
        driver.key(KeyCode::Enter);
        driver.well();
        driver.typed("]");
        driver
    });
}

#[test]
fn findings_fix() {
    snapshots("findings_fix", || {
        let mut driver = Driver::on_findings();
        driver.key(KeyCode::Enter);
        driver.well();
        driver.typed("]]");
        driver
    });
}

#[test]
fn findings_history() {
    snapshots("findings_history", || {
        let mut driver = Driver::on_findings();
        driver.key(KeyCode::Enter);
        driver.well();
        driver.typed("]]]");
        driver
    });
}

#[test]
fn findings_loading() {
    snapshots("findings_loading", || {
        let mut driver = on_overview();
        driver.typed("2");
        driver.now += SignedDuration::from_millis(200);
        driver.event(Event::Tick);
        driver
    });
}

#[test]
fn findings_empty() {
    snapshots("findings_empty", || {
        let mut driver = on_overview();
        driver.typed("2");
        driver.answer(|_| Ok(Payload::Rows(Rows::default())));
        driver
    });
}

#[test]
fn findings_forbidden() {
    snapshots("findings_forbidden", || {
        failing(FetchError::Forbidden("your role is none".into()))
    });
}

#[test]
fn findings_error() {
    snapshots("findings_error", || {
        failing(FetchError::Refused("the hub's disk is full".into()))
    });
}

#[test]
fn findings_offline() {
    snapshots("findings_offline", || {
        let mut driver = Driver::on_findings();
        driver.wait(75);
        driver.away();
        driver
    });
}

#[test]
fn help() {
    snapshots("help", || {
        let mut driver = Driver::on_findings();
        driver.typed("?");
        driver
    });
}

#[test]
fn names_hidden() {
    snapshots("names_hidden", || {
        let mut driver = Driver::on_findings();
        driver.typed("p");
        driver
    });
}

#[test]
fn what_is_hidden_is_on_no_screen() {
    let mut driver = on_overview();
    driver.typed("p");
    let look = |driver: &mut Driver| {
        for (width, height) in SIZES {
            let frame = frame(driver, width, height);
            for name in [
                "bucket-0",
                "123456789012",
                "mira",
                "acme-prod",
                "hub.test",
                "eu-west-1b",
            ] {
                assert!(!frame.contains(name), "{name} in\n{frame}");
            }
        }
    };
    look(&mut driver);
    for screen in ["2", "3", "4", "5", "6"] {
        driver.typed(screen);
        driver.well();
        look(&mut driver);
        driver.key(KeyCode::Enter);
        driver.well();
        for _ in 0..4 {
            look(&mut driver);
            driver.typed("]");
        }
    }
}

#[test]
fn a_small_terminal_asks_for_room() {
    let mut driver = Driver::on_findings();
    assert_eq!(
        frame(&mut driver, 59, 18).lines().next(),
        Some("zero-x needs 60x18; this terminal has 59x18")
    );
    for (width, height) in [(1, 1), (0, 0), (300, 1), (1, 300), (60, 17)] {
        assert!(!frame(&mut driver, width, height).contains("Findings"));
    }
    assert!(frame(&mut driver, 60, 18).contains("Findings"));
}

#[test]
fn ascii_frames_stay_within_ascii() {
    let mut driver = Driver::on_findings();
    for keys in ["", "p", "?", " ", "/", "\u{1b}"] {
        driver.typed(keys);
        let drawn = terminal(&mut driver, 100, 30, Theme::new(false, true));
        let text = text(&drawn);
        assert!(text.is_ascii(), "{text}");
        assert!(text.contains(">   !! crit") || keys == "?", "{text}");
        if keys == "?" {
            driver.key(KeyCode::Esc);
        }
    }
}

#[test]
fn no_colour_means_no_colour() {
    let mut driver = Driver::on_findings();
    let coloured = |driver: &mut Driver, theme: Theme| {
        let drawn = terminal(driver, 100, 30, theme);
        let cells = drawn.backend().buffer().content().to_vec();
        cells
            .iter()
            .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(coloured(&mut driver, Theme::new(true, false)));
    assert!(!coloured(&mut driver, Theme::new(false, false)));
}

#[test]
fn hostile_names_do_not_reach_the_terminal() {
    let hostile = "\u{1b}[2J\u{202e}evil\u{7}a\nb\u{9b}31m\u{200b}";
    let mut finding = finding(0);
    finding.title = hostile.into();
    finding.resource.name = hostile.into();
    finding.resource.urn = hostile.into();
    finding.owner = Some(hostile.into());
    finding.why = hostile.into();
    finding.fix.cli = hostile.into();
    finding.check_id = hostile.into();
    finding.evidence = [(hostile.to_owned(), serde_json::json!({"a": hostile}))].into();
    for transition in &mut finding.history {
        transition.reason = hostile.into();
    }
    let mut counts = overview();
    for row in &mut counts.attention {
        row.text = hostile.into();
        row.kind = hostile.into();
    }
    counts.resources_by_type.insert(hostile.into(), 1_000_000);
    counts.agents.insert(hostile.into(), 3);
    let mut me = who();
    me.email = hostile.into();
    me.orgs[0].name = hostile.into();

    let mut driver = Driver::new();
    let answer = |driver: &mut Driver| {
        driver.answer(|question| {
            Ok(match question {
                Question::Who => Payload::Who(me.clone()),
                Question::Overview => Payload::Overview(counts.clone()),
                Question::Rows { .. } => Payload::Rows(rows(vec![finding.clone()])),
                Question::One { .. } => Payload::One(rows(vec![finding.clone()]).items.remove(0)),
            })
        });
    };
    answer(&mut driver);
    for keys in ["", "2", "\n", "]", "]", "]", "\u{8}", "\u{8}"] {
        match keys {
            "\n" => driver.key(KeyCode::Enter),
            "\u{8}" => driver.key(KeyCode::Esc),
            keys => driver.typed(keys),
        }
        answer(&mut driver);
        for (width, height) in SIZES {
            let text = frame(&mut driver, width, height);
            let harmful = |c: char| {
                (c.is_control() && c != '\n')
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{200b}'..='\u{200f}' | '\u{2066}'..='\u{2069}')
            };
            assert!(!text.contains(harmful), "{text:?}");
        }
    }
    driver.event(Event::Reply {
        ask: 0,
        answer: Err(FetchError::Refused(hostile.into())),
    });
}

#[test]
fn two_hundred_resizes_neither_panic_nor_leave_anything_behind() {
    let mut driver = Driver::on_findings();
    let theme = Theme::new(true, false);
    let mut kept = terminal(&mut driver, 80, 24, theme);
    // A linear congruential generator (Knuth, MMIX): any sizes do, the same each time.
    let mut seed: u64 = 7;
    let mut next = |most: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u16::try_from((seed >> 33) % most).unwrap()
    };
    for round in 0..200 {
        match round % 5 {
            0 => driver.typed("jj"),
            1 => driver.key(KeyCode::Enter),
            2 => driver.typed("]"),
            3 => driver.press(KeyCode::Char('d'), KeyModifiers::CONTROL),
            _ => driver.key(KeyCode::Esc),
        }
        let (width, height) = (next(220), next(70));
        kept.backend_mut().resize(width, height);
        driver.event(Event::Resized(width, height));
        kept.draw(|frame| draw(frame, &driver.state, theme))
            .unwrap();
        let fresh = terminal(&mut driver, width, height, theme);
        assert_eq!(
            kept.backend().buffer(),
            fresh.backend().buffer(),
            "{width}x{height}"
        );
        if driver.state.list().is_none() {
            driver.typed("2");
        }
    }
}

#[test]
fn a_recorded_session_draws_the_same_frames_again() {
    let play = || {
        let mut driver = Driver::new();
        let mut frames = Vec::new();
        for keys in ["", "2", "jj", "/high", "\n", "s", "S", "f", "p", "?", "x"] {
            match keys {
                "\n" => driver.key(KeyCode::Enter),
                keys => driver.typed(keys),
            }
            driver.well();
            driver.wait(3);
            frames.push(frame(&mut driver, 100, 30));
        }
        frames
    };
    assert_eq!(play(), play());
}

#[test]
fn a_hundred_thousand_rows_can_be_scrolled() {
    let mut driver = Driver::on_findings();
    driver.press(KeyCode::Char('r'), KeyModifiers::CONTROL);
    let one = rows(vec![finding(0)]).items.remove(0);
    driver.answer(|_| {
        Ok(Payload::Rows(Rows {
            items: vec![one.clone(); 100_000],
            total: 100_000,
            is_cut: false,
        }))
    });
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        driver.press(KeyCode::Char('d'), KeyModifiers::CONTROL);
        frame(&mut driver, 200, 60);
    }
    // A frame that went through all rows would take a third of a second in a debug build.
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}
