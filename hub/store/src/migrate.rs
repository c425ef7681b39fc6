//! Brings what a holder's tables hold up to the present format ([`FORMAT`]), a step at a time.
//!
//! A step is one commit, with the number of the format that it comes to: a crash leaves the format
//! before it or the one after it. So it also has to fit in memory; one that would rewrite a large
//! table has to be cut into steps that do. Nothing is converted back.
//!
//! A change of a table, a key or a row takes a new [`FORMAT`], a step from the one before, and the
//! files of the one before in `tests/format`, which every later program opens.

use std::path::Path;

use crate::draft::Draft;
use crate::engine::{Engine, FORMAT, Holder, WriteSet};
use crate::error::{EngineError, OpenError, ReadError};
use crate::keys::Names;
use crate::seal::Sealer;

/// From one format to the next.
pub(crate) struct Step {
    /// The format that it begins with.
    pub(crate) from: u32,
    /// Reads what is there and writes what it becomes.
    pub(crate) run: fn(Holder, &Names, &mut Draft<'_>) -> Result<(), ReadError>,
}

/// Every step to [`FORMAT`], in order. Format 1 is the first that there is.
const STEPS: &[Step] = &[];

/// Brings a holder that was opened up to the present format. `path` names it in errors.
pub(crate) fn bring_up(
    engine: &dyn Engine,
    holder: Holder,
    path: &Path,
    names: &Names,
    sealer: &Sealer,
) -> Result<(), OpenError> {
    bring_up_by(STEPS, FORMAT, engine, holder, path, names, sealer)
}

fn bring_up_by(
    steps: &[Step],
    newest: u32,
    engine: &dyn Engine,
    holder: Holder,
    path: &Path,
    names: &Names,
    sealer: &Sealer,
) -> Result<(), OpenError> {
    let failed = |error: EngineError| OpenError::of_row(path, &ReadError::Engine(error));
    loop {
        let format = {
            let snapshot = engine.snapshot().map_err(failed)?;
            snapshot.format().map_err(failed)?
        };
        if format >= newest {
            return Ok(());
        }
        let Some(step) = steps.iter().find(|step| step.from == format) else {
            return Err(OpenError::Damaged {
                path: path.to_owned(),
                reason: format!("it has format {format}, and no way leads from there to {newest}"),
            });
        };
        tracing::info!(path = %path.display(), from = format, "a store is brought up");
        let mut outcome = Ok(());
        let applied = engine.group(&mut |group| {
            outcome = Draft::new(group, sealer)
                .and_then(|mut draft| {
                    (step.run)(holder, names, &mut draft)?;
                    Ok(draft.finish())
                })
                .map(|set| WriteSet {
                    format: Some(step.from + 1),
                    ..set
                })
                .and_then(|set| match group.apply(&set)? {
                    Ok(_) => Ok(()),
                    // Nobody else writes while it is opened.
                    Err(_) => Err(ReadError::Closed),
                });
            match &outcome {
                Ok(()) => Ok(()),
                Err(_) => Err(EngineError::Io("a step was given up".into())),
            }
        });
        if let Err(error) = outcome {
            return Err(OpenError::of_row(path, &error));
        }
        applied.map_err(failed)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::MemoryEngines;
    use crate::engine::{Engines, Entry, Moment, Piece, Range, Row};
    use crate::seal::{Keyring, random_key};
    use crate::tables::Table;
    use protocol::ids::OrgId;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const HOLDER: Holder = Holder::Org(OrgId::from_bytes([1; 16]));

    struct Bench {
        names: Names,
        sealer: Sealer,
        engine: Arc<dyn Engine>,
    }

    impl Bench {
        /// A holder of format 0 whose rows are texts.
        fn new() -> Self {
            let names = Names::new(&random_key());
            let sealer = Keyring::fresh().into_sealer([1; 16]);
            let entry = |n: u8| Entry {
                key: vec![n],
                row: Row {
                    version: 1,
                    value: sealer.seal(Table::Gone, &[n], &crate::codec::encode(&n.to_string())),
                },
            };
            let mut pieces =
                vec![Piece::Rows(Table::Gone, (0..3).map(entry).collect())].into_iter();
            let engines = MemoryEngines::default();
            let moment = Moment {
                commit: 1,
                format: 0,
            };
            let loaded = engines.load(HOLDER, moment, &mut || Ok(pieces.next()));
            assert!(loaded.is_ok(), "{loaded:?}");
            let engine = engines.open(HOLDER).unwrap();
            Self {
                names,
                sealer,
                engine,
            }
        }

        fn bring_up(&self, steps: &[Step], newest: u32) -> Result<(), OpenError> {
            let (engine, path) = (&*self.engine, Path::new("the file"));
            bring_up_by(
                steps,
                newest,
                engine,
                HOLDER,
                path,
                &self.names,
                &self.sealer,
            )
        }

        fn rows<T: serde::de::DeserializeOwned>(&self) -> Vec<T> {
            let read = self.engine.snapshot().unwrap();
            let view = crate::view::View::new(&*read, &self.sealer);
            view.all(Table::Gone, &Range::all()).unwrap()
        }

        fn numbers(&self) -> (u64, u32) {
            let read = self.engine.snapshot().unwrap();
            (read.last_commit().unwrap(), read.format().unwrap())
        }
    }

    /// Texts become numbers.
    fn parsed(holder: Holder, _: &Names, draft: &mut Draft<'_>) -> Result<(), ReadError> {
        assert_eq!(holder, HOLDER);
        let mut rows = Vec::new();
        draft.scan(Table::Gone, &Range::all(), |key, text: String| {
            rows.push((key.to_vec(), text.parse::<u32>().unwrap()));
        })?;
        for (key, number) in rows {
            draft.put(Table::Gone, key, &number);
        }
        Ok(())
    }

    static BREAKS: AtomicBool = AtomicBool::new(false);

    /// Numbers are doubled, unless something breaks on the way.
    fn doubled(_: Holder, _: &Names, draft: &mut Draft<'_>) -> Result<(), ReadError> {
        let mut rows = Vec::new();
        draft.scan(Table::Gone, &Range::all(), |key, number: u32| {
            rows.push((key.to_vec(), number * 2));
        })?;
        for (key, number) in rows {
            draft.put(Table::Gone, key, &number);
        }
        if BREAKS.load(Ordering::Relaxed) {
            return Err(ReadError::Engine(EngineError::Full));
        }
        Ok(())
    }

    const BOTH: &[Step] = &[
        Step {
            from: 0,
            run: parsed,
        },
        Step {
            from: 1,
            run: doubled,
        },
    ];

    #[test]
    fn an_older_holder_is_brought_up_step_by_step_and_a_broken_step_is_taken_again() {
        let bench = Bench::new();
        BREAKS.store(true, Ordering::Relaxed);
        let broken = bench.bring_up(BOTH, 2).unwrap_err();
        assert!(broken.to_string().contains("no space left"), "{broken}");
        // The first step stands, the second has left nothing.
        assert_eq!(bench.numbers(), (2, 1));
        assert_eq!(bench.rows::<u32>(), [0, 1, 2]);
        BREAKS.store(false, Ordering::Relaxed);
        bench.bring_up(BOTH, 2).unwrap();
        assert_eq!(bench.numbers(), (3, 2));
        assert_eq!(bench.rows::<u32>(), [0, 2, 4]);
        bench.bring_up(BOTH, 2).unwrap();
        assert_eq!(bench.numbers(), (3, 2));
    }

    #[test]
    fn a_format_that_no_step_begins_with_is_refused_and_stays() {
        let bench = Bench::new();
        let refused = bench.bring_up(&[], 1).unwrap_err();
        let want = "the file is damaged: it has format 0, and no way leads from there to 1";
        assert_eq!(refused.to_string(), want);
        assert!(refused.is_data_error());
        assert_eq!(bench.numbers(), (1, 0));
        assert_eq!(bench.rows::<String>(), ["0", "1", "2"]);
    }

    #[test]
    fn the_steps_of_this_program_lead_to_its_format_without_a_gap() {
        let formats = STEPS.iter().map(|step| step.from).chain([FORMAT]);
        assert!(formats.eq(1..=FORMAT));
    }
}
