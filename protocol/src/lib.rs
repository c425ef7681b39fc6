//! Messages, ids, limits, resource types and the agent-hub session as a state machine: no I/O, no clock.
