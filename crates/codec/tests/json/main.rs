//! The JSON codec as the REST API uses it: what goes in, what comes out, and what is said about mistakes.

mod conformance;
mod errors;
mod examples;
mod requests;
mod responses;
mod support;
