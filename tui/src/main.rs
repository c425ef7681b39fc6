//! The console and scripting client: talks HTTPS to the hub, and to nothing else.

fn main() {}
