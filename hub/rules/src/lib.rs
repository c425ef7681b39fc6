//! Checks as data: CEL compiled to a three-valued tree, policies, verdicts; pure.
