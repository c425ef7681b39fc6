//! The checks that Zero-X ships with.

use protocol::declare::Declarations;
use rules::RuleSet;

#[test]
fn every_builtin_check_loads_and_stands_all_its_tests() {
    let set = match RuleSet::builtin(Declarations::builtin()) {
        Ok(set) => set,
        Err(errors) => {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            panic!("{}", lines.join("\n"));
        }
    };
    let results = set.run_tests(None);
    let failed: Vec<String> = results
        .iter()
        .filter_map(|t| {
            Some(format!(
                "{}: {}: {}",
                t.check,
                t.name,
                t.result.as_ref().err()?
            ))
        })
        .collect();
    println!(
        "{} checks, {} tests, {} failed",
        set.checks().len(),
        results.len(),
        failed.len()
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(set.checks().len() >= 150 && results.len() >= 1900);
}
