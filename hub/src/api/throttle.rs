//! `Throttle::new() -> Throttle` is what serve.rs calls.
