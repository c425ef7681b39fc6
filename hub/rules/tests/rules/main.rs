//! Tests of the language, of refusals and of the shipped checks.

mod builtin;
mod differential;
mod evaluation;
mod hostile;
mod refusals;
mod world;
