//! The priority that a request asks for.

use crate::serving::traffic::Caller;
use servable_model::call::Priority;
use servable_model::error::Result;

/// The HTTP header or gRPC metadata key.
const KEY: &str = "servable-priority";

/// The priority that a caller requests; high by default.
///
/// # Errors
///
/// `INVALID_ARGUMENT` for a value that is not a priority.
pub(crate) fn of(caller: &dyn Caller) -> Result<Priority> {
    let said = caller.value(KEY).map(String::from_utf8_lossy);
    said.map_or(Ok(Priority::High), |name| Priority::from_name(&name, KEY))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::serving::traffic::Anonymous;

    #[test]
    fn the_priority_is_high_unless_the_caller_says_low() {
        let said = |value: &'static str| {
            of(&HeaderMap::from_iter([("servable-priority".parse().expect("a name"), HeaderValue::from_static(value))]))
        };
        assert_eq!(of(&Anonymous).ok(), Some(Priority::High));
        assert_eq!(said("high").ok(), Some(Priority::High));
        assert_eq!(said("low").ok(), Some(Priority::Low));
        let refused = said("urgent").map_err(|error| error.to_string());
        assert_eq!(
            refused,
            Err("INVALID_ARGUMENT: servable-priority is \"urgent\"; it can be \"high\" or \"low\"".to_owned())
        );
    }
}
