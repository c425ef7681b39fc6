//! Tests of the language, of refusals and of the shipped checks.

mod builtin;
mod evaluation;
mod refusals;
mod world;
