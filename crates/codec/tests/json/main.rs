//! The JSON codec through its public interface: requests, responses and errors.

mod conformance;
mod errors;
mod examples;
mod requests;
mod responses;
mod support;
