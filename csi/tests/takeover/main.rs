//! Volumes whose servers are killed while programs use them: nothing that was accepted is lost, no program
//! sees more than a pause, and where nobody comes to serve there are errors and no hangs.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a failing test has to say")]

mod alone;
mod churn;
mod data;
mod ground;
mod names;
mod node;
mod processes;
