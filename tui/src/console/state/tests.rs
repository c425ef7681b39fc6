//! The state is played: events go in, effects are looked at, the hub's answers are written by hand.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::{SignedDuration, Timestamp};

use super::prompt::Purpose;
use super::{Link, Screen, State};
use crate::console::event::{Effect, Event, FetchError, News, Payload, Question, Rows};
use crate::console::item::{Item, Kind};
use crate::console::screens::tests_support::{agent, finding, findings, now, overview, rows, who};

/// The listener that is opened with the first answer.
const FIRST_LISTENER: u64 = 1;

/// A state, the time, and what it has asked for and not yet been given.
pub(crate) struct Driver {
    pub(crate) state: State,
    pub(crate) now: Timestamp,
    pub(crate) effects: Vec<Effect>,
}

impl Driver {
    pub(crate) fn new() -> Self {
        let mut state = State::new("hub.test:8443".into(), None, now());
        let effects = state.start();
        Self {
            state,
            now: now(),
            effects,
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        let effects = self.state.update(event, self.now);
        self.effects.extend(effects);
    }

    pub(crate) fn press(&mut self, code: KeyCode, modifiers: KeyModifiers) {
        self.event(Event::Key(KeyEvent::new(code, modifiers)));
    }

    pub(crate) fn key(&mut self, code: KeyCode) {
        self.press(code, KeyModifiers::NONE);
    }

    pub(crate) fn typed(&mut self, text: &str) {
        for letter in text.chars() {
            self.key(KeyCode::Char(letter));
        }
    }

    /// Lets time pass, with a tick whenever the state asked for one.
    pub(crate) fn wait(&mut self, seconds: i64) {
        let end = self.now + SignedDuration::from_secs(seconds);
        while self.state.next_tick() <= end {
            assert!(self.state.next_tick() > self.now, "time must go on");
            self.now = self.state.next_tick();
            self.event(Event::Tick);
        }
        self.now = end;
        self.event(Event::Tick);
    }

    /// Answers every question under way.
    pub(crate) fn answer(&mut self, answer: impl Fn(&Question) -> Result<Payload, FetchError>) {
        for effect in std::mem::take(&mut self.effects) {
            if let Effect::Fetch { ask, question, .. } = effect {
                let answer = answer(&question);
                self.event(Event::Reply { ask, answer });
            }
        }
    }

    /// Answers as a hub does that has findings.
    pub(crate) fn well(&mut self) {
        while self.questions().next().is_some() {
            self.answer(|question| {
                Ok(match question {
                    Question::Who => Payload::Who(who()),
                    Question::Overview => Payload::Overview(overview()),
                    Question::Rows { kind, .. } => Payload::Rows(match kind {
                        Kind::Finding => findings(),
                        Kind::Agent => Rows {
                            items: vec![Item::Agent(Box::new(agent()))],
                            total: 1,
                            is_cut: false,
                        },
                        Kind::Resource | Kind::Event | Kind::Source => Rows::default(),
                    }),
                    Question::One { id, .. } => {
                        let found = findings().items.into_iter().find(|item| item.id() == *id);
                        Payload::One(found.ok_or(FetchError::Gone)?)
                    }
                })
            });
        }
    }

    /// Answers as a network does behind which there is no hub.
    pub(crate) fn away(&mut self) {
        self.answer(|_| Err(FetchError::Unreachable("connection refused".into())));
    }

    fn questions(&self) -> impl Iterator<Item = &Question> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Fetch { question, .. } => Some(question),
            Effect::Listen { .. } | Effect::Copy(_) | Effect::Suspend | Effect::Quit => None,
        })
    }

    fn listener(&self) -> u64 {
        let last = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Listen { listener, .. } => Some(*listener),
            Effect::Fetch { .. } | Effect::Copy(_) | Effect::Suspend | Effect::Quit => None,
        });
        last.expect("the state listens")
    }

    fn last_ask(&self) -> u64 {
        let last = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Fetch { ask, .. } => Some(*ask),
            Effect::Listen { .. } | Effect::Copy(_) | Effect::Suspend | Effect::Quit => None,
        });
        last.expect("something was asked")
    }

    fn copied(&self) -> &str {
        let last = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Copy(text) => Some(text.as_str()),
            Effect::Fetch { .. } | Effect::Listen { .. } | Effect::Suspend | Effect::Quit => None,
        });
        last.expect("something was copied")
    }

    fn selected(&self) -> String {
        self.state.list().unwrap().selected().unwrap().id()
    }

    pub(crate) fn on_findings() -> Self {
        let mut driver = Self::new();
        driver.well();
        driver.typed("2");
        driver.well();
        driver
    }
}

fn id(number: u8) -> String {
    finding(number).id.to_string()
}

#[test]
fn a_link_that_breaks_keeps_the_rows_and_comes_back_with_the_cursor_on_its_row() {
    let mut driver = Driver::on_findings();
    driver.typed("jjj");
    driver.typed(" ");
    driver.typed("k");
    assert_eq!(driver.selected(), id(3));
    driver.wait(30);
    driver.away();
    assert!(matches!(driver.state.link, Link::Offline { .. }));
    let list = driver.state.list().unwrap();
    assert_eq!(list.len(), 12, "the last rows stay");
    assert_eq!(driver.state.data_at(), Some(now()), "and so does their age");

    driver.wait(2);
    // The row before the one looked at is gone, and the order is another.
    driver.answer(|question| {
        assert!(matches!(question, Question::Rows { .. }), "{question:?}");
        let mut left: Vec<_> = (0..12).filter(|n| *n != 2).map(finding).collect();
        left.reverse();
        Ok(Payload::Rows(rows(left)))
    });
    assert_eq!(driver.state.link, Link::Live);
    assert_eq!(driver.selected(), id(3));
    let marks: Vec<&String> = driver.state.list().unwrap().marks.iter().collect();
    assert_eq!(marks, [&id(3)]);
}

#[test]
fn a_filter_works_while_it_is_typed_and_esc_takes_it_back() {
    let mut driver = Driver::on_findings();
    driver.effects.clear();
    driver.typed("/");
    driver.typed("severity");
    assert_eq!(
        driver.state.list().unwrap().len(),
        12,
        "a field's name so far"
    );
    driver.typed(">=");
    assert!(driver.state.prompt.as_ref().unwrap().error.is_some());
    assert_eq!(driver.state.list().unwrap().len(), 12);
    driver.typed("high");
    assert_eq!(driver.state.list().unwrap().len(), 6);
    assert!(
        driver.effects.is_empty(),
        "the hub is not asked while one types"
    );
    driver.key(KeyCode::Esc);
    assert_eq!(driver.state.list().unwrap().len(), 12);

    driver.typed("/severity>=critical");
    driver.key(KeyCode::Enter);
    let filter = "status=open severity>=critical".to_owned();
    assert_eq!(
        driver.questions().collect::<Vec<_>>(),
        [&Question::Rows {
            kind: Kind::Finding,
            filter,
            sort: Some("-severity".into())
        }]
    );
    assert_eq!(
        driver.state.list().unwrap().len(),
        3,
        "while the hub is asked"
    );

    driver.typed("/ x=");
    driver.key(KeyCode::Enter);
    assert!(
        driver.state.prompt.as_ref().unwrap().error.is_some(),
        "a text that is no filter cannot be used"
    );
}

#[test]
fn the_cursor_comes_back_to_its_row_whatever_was_typed_in_between() {
    let mut driver = Driver::on_findings();
    driver.typed("jjjj");
    driver.typed("/bucket-11");
    assert_eq!(driver.selected(), id(11));
    driver.key(KeyCode::Backspace);
    driver.key(KeyCode::Backspace);
    assert_eq!(driver.selected(), id(4));
    driver.typed("1");
    driver.key(KeyCode::Esc);
    assert_eq!(driver.selected(), id(4));
    driver.typed("s");
    driver.well();
    assert_eq!(
        driver.selected(),
        id(0),
        "another order begins at its first row"
    );
}

#[test]
fn new_rows_do_not_undo_a_filter_that_is_being_typed() {
    let mut driver = Driver::on_findings();
    driver.wait(10);
    driver.typed("/severity=low");
    assert_eq!(driver.state.list().unwrap().len(), 3);
    driver.well();
    assert_eq!(driver.state.list().unwrap().len(), 3);
    assert_eq!(
        driver.state.prompt.as_ref().unwrap().purpose,
        Purpose::Filter
    );
}

#[test]
fn an_answer_to_an_older_question_is_dropped() {
    let mut driver = Driver::on_findings();
    driver.effects.clear();
    driver.press(KeyCode::Char('r'), KeyModifiers::CONTROL);
    driver.press(KeyCode::Char('r'), KeyModifiers::CONTROL);
    let asks: Vec<u64> = driver
        .effects
        .drain(..)
        .filter_map(|effect| match effect {
            Effect::Fetch { ask, .. } => Some(ask),
            Effect::Listen { .. } | Effect::Copy(_) | Effect::Suspend | Effect::Quit => None,
        })
        .collect();
    let [older, newer] = asks.as_slice() else {
        panic!("{asks:?}");
    };
    let reply = |ask: u64, rows| Event::Reply {
        ask,
        answer: Ok(Payload::Rows(rows)),
    };
    driver.event(reply(*newer, rows(vec![finding(1)])));
    driver.event(reply(*older, findings()));
    assert_eq!(driver.state.list().unwrap().len(), 1);
}

#[test]
fn an_offline_hub_is_asked_again_less_and_less_often() {
    let mut driver = Driver::new();
    driver.away();
    let mut waits = Vec::new();
    for _ in 0..8 {
        let Link::Offline { retry_at, .. } = &driver.state.link else {
            panic!("{:?}", driver.state.link);
        };
        let wait = retry_at.duration_since(driver.now).as_secs();
        waits.push(wait);
        driver.wait(wait - 1);
        assert_eq!(driver.questions().count(), 0, "not before its time");
        driver.wait(1);
        assert_eq!(driver.questions().count(), 1, "one question finds out");
        driver.away();
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
    driver.wait(60);
    driver.well();
    assert_eq!(driver.state.link, Link::Live);
    assert!(
        driver.state.overview.value.is_some(),
        "what is seen follows"
    );
}

#[test]
fn a_question_of_the_user_does_not_make_the_hub_be_asked_less_often() {
    let mut driver = Driver::new();
    driver.away();
    let before = driver.state.link.clone();
    for _ in 0..5 {
        driver.press(KeyCode::Char('r'), KeyModifiers::CONTROL);
        driver.away();
    }
    assert_eq!(driver.state.link, before);
}

#[test]
fn a_clock_that_is_set_back_does_not_end_the_attempts() {
    let mut driver = Driver::new();
    driver.away();
    driver.now -= SignedDuration::from_hours(5);
    driver.event(Event::Tick);
    assert_eq!(driver.questions().count(), 1);
}

#[test]
fn a_command_goes_to_a_screen_with_a_filter_and_c_copies_it_as_a_command_line() {
    let mut driver = Driver::new();
    driver.well();
    driver.typed(":findings name~\"o'brien\"");
    driver.key(KeyCode::Enter);
    assert_eq!(driver.state.kind(), Some(Kind::Finding));
    driver.typed("C");
    assert_eq!(
        driver.copied(),
        r#"zero-x finding list --filter 'name~"o'\''brien"' --sort -severity"#
    );
    driver.well();
    driver.typed("c");
    assert_eq!(driver.copied(), id(0));
    driver.typed(" C");
    assert_eq!(driver.copied(), format!("zero-x finding show {}", id(0)));

    driver.typed(":findings naem=x");
    driver.key(KeyCode::Enter);
    let prompt = driver.state.prompt.as_ref().unwrap();
    assert!(
        prompt
            .error
            .as_ref()
            .unwrap()
            .contains("did you mean name?")
    );
}

#[test]
fn a_burst_of_changes_is_one_question_and_changes_of_other_kinds_are_none() {
    let mut driver = Driver::on_findings();
    let listener = FIRST_LISTENER;
    driver.event(Event::News {
        listener,
        news: News::Opened,
    });
    driver.wait(2);
    driver.well();
    driver.effects.clear();
    for _ in 0..50 {
        driver.event(Event::News {
            listener,
            news: News::Changed("findings".into()),
        });
    }
    driver.wait(2);
    assert_eq!(driver.questions().count(), 1);
    driver.well();
    driver.event(Event::News {
        listener,
        news: News::Changed("agents".into()),
    });
    driver.wait(20);
    assert_eq!(driver.questions().count(), 0);
    driver.event(Event::News {
        listener,
        news: News::Changed("all".into()),
    });
    driver.wait(2);
    assert_eq!(driver.questions().count(), 1);
}

#[test]
fn a_hub_that_takes_long_to_answer_is_asked_less_often() {
    let mut driver = Driver::on_findings();
    driver.event(Event::News {
        listener: FIRST_LISTENER,
        news: News::Opened,
    });
    // Asked after the first of these seconds.
    driver.wait(2);
    driver.now += SignedDuration::from_secs(6);
    driver.well();
    driver.effects.clear();
    driver.event(Event::News {
        listener: FIRST_LISTENER,
        news: News::Changed("findings".into()),
    });
    driver.wait(13);
    assert_eq!(driver.questions().count(), 0);
    driver.wait(1);
    assert_eq!(
        driver.questions().count(),
        1,
        "twice the seven seconds it took"
    );
}

#[test]
fn the_first_rows_are_shown_before_all_have_come() {
    let mut driver = Driver::new();
    driver.well();
    driver.typed("2");
    let ask = driver.last_ask();
    let first = Rows {
        total: 12,
        is_cut: true,
        ..rows((0..3).map(finding).collect())
    };
    driver.event(Event::Part {
        ask,
        rows: first.clone(),
    });
    assert_eq!(driver.state.list().unwrap().len(), 3);
    driver.typed("jj");
    driver.well();
    assert_eq!(driver.state.list().unwrap().len(), 12);
    assert_eq!(driver.selected(), id(2));
    driver.press(KeyCode::Char('r'), KeyModifiers::CONTROL);
    let ask = driver.last_ask();
    driver.event(Event::Part { ask, rows: first });
    assert_eq!(
        driver.state.list().unwrap().len(),
        12,
        "rows that are there wait for all"
    );
}

#[test]
fn without_the_stream_what_is_seen_is_asked_for_by_the_clock() {
    let mut driver = Driver::on_findings();
    let listener = FIRST_LISTENER;
    driver.event(Event::News {
        listener,
        news: News::Closed,
    });
    driver.effects.clear();
    driver.wait(10);
    assert_eq!(driver.questions().count(), 1);
    assert!(
        driver.listener() > listener,
        "and the stream is tried again"
    );
    let stale = Event::News {
        listener,
        news: News::Opened,
    };
    driver.event(stale);
    driver.well();
    driver.effects.clear();
    driver.wait(10);
    assert_eq!(
        driver.questions().count(),
        1,
        "a replaced listener is not believed"
    );
}

#[test]
fn a_stream_that_ends_makes_the_hub_be_asked_whether_it_is_there() {
    let mut driver = Driver::on_findings();
    let listener = FIRST_LISTENER;
    driver.event(Event::News {
        listener,
        news: News::Opened,
    });
    driver.effects.clear();
    driver.event(Event::News {
        listener,
        news: News::Closed,
    });
    assert_eq!(driver.questions().count(), 1);
    driver.away();
    assert!(matches!(driver.state.link, Link::Offline { .. }));
}

#[test]
fn a_frozen_view_changes_only_by_what_its_user_asks_for() {
    let mut driver = Driver::on_findings();
    driver.effects.clear();
    driver.wait(9);
    driver.typed("f");
    driver.wait(300);
    assert_eq!(driver.questions().count(), 0);
    driver.press(KeyCode::Char('r'), KeyModifiers::CONTROL);
    driver.answer(|_| Ok(Payload::Rows(rows(vec![finding(1)]))));
    assert_eq!(driver.state.list().unwrap().len(), 1);
    driver.typed("f");
    assert_eq!(driver.questions().count(), 1);
}

#[test]
fn what_was_asked_for_by_the_clock_does_not_change_a_view_frozen_since() {
    let mut driver = Driver::on_findings();
    driver.effects.clear();
    driver.wait(10);
    driver.typed("f");
    driver.answer(|_| Ok(Payload::Rows(rows(vec![finding(1)]))));
    assert_eq!(driver.state.list().unwrap().len(), 12);
}

#[test]
fn another_organisation_shows_nothing_of_the_one_before() {
    let mut driver = Driver::on_findings();
    driver.press(KeyCode::Char('r'), KeyModifiers::CONTROL);
    let under_way = std::mem::take(&mut driver.effects);
    // Typed ahead: the screen behind the change is asked for before the first answer.
    driver.typed(":org acme-lab");
    driver.key(KeyCode::Enter);
    driver.typed("2j");
    assert_eq!(driver.state.list().unwrap().len(), 0);
    for effect in under_way {
        if let Effect::Fetch { ask, .. } = effect {
            let answer = Ok(Payload::Rows(findings()));
            driver.event(Event::Reply { ask, answer });
        }
    }
    assert_eq!(driver.state.list().unwrap().len(), 0);
    for effect in &driver.effects {
        if let Effect::Fetch { org, question, .. } = effect {
            let wanted = (*question != Question::Who).then_some("acme-lab");
            assert_eq!(org.as_deref(), wanted);
        }
    }
    driver.well();
    assert_eq!(driver.state.org_name().unwrap().0, "acme-lab");
    driver.typed("C");
    assert!(driver.copied().contains(" --org acme-lab "));
}

#[test]
fn an_organisation_that_is_not_the_users_is_refused_where_it_is_typed() {
    let mut driver = Driver::on_findings();
    driver.effects.clear();
    driver.typed(":org acme-lba");
    driver.key(KeyCode::Enter);
    let prompt = driver.state.prompt.as_ref().unwrap();
    assert_eq!(prompt.text, "org acme-lba");
    assert_eq!(
        prompt.error.as_deref(),
        Some("yours are acme-prod, acme-lab")
    );
    assert!(driver.effects.is_empty());
    assert_eq!(driver.state.list().unwrap().len(), 12);
}

#[test]
fn details_go_from_row_to_row_and_back_to_the_list_where_it_was() {
    let mut driver = Driver::on_findings();
    driver.typed("j");
    driver.key(KeyCode::Enter);
    driver.typed("]]");
    driver.typed("J");
    let Screen::Detail(detail) = driver.state.screen() else {
        panic!("no detail");
    };
    assert_eq!((detail.id.clone(), detail.tab), (id(2), 2));
    assert!(
        detail.loaded.value.is_some(),
        "shown before the hub answers"
    );
    driver.well();
    driver.key(KeyCode::Esc);
    assert_eq!(driver.selected(), id(2));
}

#[test]
fn what_needs_attention_opens_even_when_no_list_has_it() {
    let mut driver = Driver::new();
    driver.well();
    driver.key(KeyCode::Enter);
    let wanted = Question::One {
        kind: Kind::Finding,
        id: id(0),
    };
    assert_eq!(driver.questions().collect::<Vec<_>>(), [&wanted]);
    driver.well();
    driver.key(KeyCode::Esc);
    assert!(matches!(driver.state.screen(), Screen::Overview));
    driver.typed("jj");
    driver.key(KeyCode::Enter);
    assert_eq!(driver.state.kind(), Some(Kind::Agent));
}

#[test]
fn an_object_that_is_gone_says_so_and_stays_readable() {
    let mut driver = Driver::on_findings();
    driver.key(KeyCode::Enter);
    driver.answer(|_| Err(FetchError::Gone));
    let Screen::Detail(detail) = driver.state.screen() else {
        panic!("no detail");
    };
    assert_eq!(detail.loaded.error, Some(FetchError::Gone));
    assert!(detail.loaded.value.is_some());
    assert_eq!(driver.state.link, Link::Live);
}

#[test]
fn esc_gives_up_a_long_wait_before_it_goes_back() {
    let mut driver = Driver::on_findings();
    driver.typed("s");
    driver.now += SignedDuration::from_millis(200);
    driver.key(KeyCode::Esc);
    assert_eq!(driver.state.place(), crate::console::keymap::Place::List);
    driver.well();
    driver.key(KeyCode::Esc);
    assert_eq!(
        driver.state.place(),
        crate::console::keymap::Place::Overview
    );
}

#[test]
fn what_is_pasted_is_text_and_never_a_command() {
    let mut driver = Driver::on_findings();
    driver.effects.clear();
    driver.event(Event::Paste("q:quit\n".into()));
    assert!(driver.effects.is_empty());
    driver.typed("/");
    driver.event(Event::Paste("name~x\nq".into()));
    assert_eq!(
        driver.state.prompt.as_ref().unwrap().text,
        "status=open name~x q"
    );
    assert!(driver.effects.is_empty());
}

#[test]
fn a_range_is_marked_from_the_last_mark_to_the_cursor() {
    let mut driver = Driver::on_findings();
    driver.typed("j jjj");
    driver.press(KeyCode::Char(' '), KeyModifiers::CONTROL);
    let marks = driver.state.list().unwrap().marks.clone();
    assert_eq!(marks, (1..=5).map(id).collect());
    driver.typed("*");
    assert!(driver.state.list().unwrap().marks.is_empty());
}

#[test]
fn a_finding_leads_to_its_resource_and_a_list_with_one_order_says_so() {
    let mut driver = Driver::on_findings();
    driver.typed("o");
    let wanted = Question::One {
        kind: Kind::Resource,
        id: finding(0).resource.urn,
    };
    assert!(driver.questions().any(|question| *question == wanted));
    driver.well();
    driver.typed("5");
    driver.well();
    driver.typed("s");
    assert_eq!(
        driver.state.notice.as_deref(),
        Some("this list has one order")
    );
}

#[test]
fn a_busy_hub_takes_no_rows_away_and_is_not_called_absent() {
    let mut driver = Driver::on_findings();
    let held = driver.state.lists[&Kind::Finding].len();
    assert!(held > 0);
    driver.wait(31);
    driver.answer(|_| Err(FetchError::Busy("too many requests".into())));
    let list = &driver.state.lists[&Kind::Finding];
    assert!(matches!(list.loaded.error, Some(FetchError::Busy(_))));
    assert_eq!(list.len(), held);
    assert_eq!(driver.state.link, Link::Live);
}
