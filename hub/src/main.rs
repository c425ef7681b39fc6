//! The hub: stores every organisation apart, judges, answers the API.

fn main() {}
