//! The agent: collects with credentials that stay on its host and streams facts to the hub.

fn main() {}
