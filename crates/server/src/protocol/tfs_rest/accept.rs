//! Content negotiation: selects the form of an answer by the header `Accept`.

use http::HeaderMap;
use http::header::ACCEPT;

/// The maximum number of entries, more than any client sends. Further ones are ignored.
const MAX_ENTRIES: usize = 32;

/// The offer of the highest quality for the client, the first of several equal ones. `None` if it accepts none, or
/// sends no `Accept`.
pub(super) fn best<T: Copy>(headers: &HeaderMap, offers: &[(&str, T)]) -> Option<T> {
    let mut best: Option<(f32, T)> = None;
    for &(media_type, offer) in offers {
        let quality = quality(headers, media_type);
        if quality > best.map_or(0.0, |(quality, _)| quality) {
            best = Some((quality, offer));
        }
    }
    best.map(|(_, offer)| offer)
}

/// The quality of a media type, from 0 to 1: the largest value among the most specific matching entries.
fn quality(headers: &HeaderMap, media_type: &str) -> f32 {
    let main_type = media_type.split('/').next().unwrap_or_default();
    let (mut exactness, mut found) = (0, 0.0_f32);
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for entry in values.flat_map(|value| value.split(',')).take(MAX_ENTRIES) {
        let mut parts = entry.split(';').map(str::trim);
        let wanted = parts.next().unwrap_or_default();
        let matching = if wanted.eq_ignore_ascii_case(media_type) {
            3
        } else if wanted.strip_suffix("/*").is_some_and(|kind| kind.eq_ignore_ascii_case(main_type)) {
            2
        } else if wanted == "*/*" {
            1
        } else {
            continue;
        };
        let weight = parts.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        if matching > exactness {
            (exactness, found) = (matching, weight);
        } else if matching == exactness {
            found = found.max(weight);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_best_offer_is_the_one_of_the_highest_quality() {
        let offers = [("text/plain", "text"), ("application/json", "json")];
        for (accept, expected) in [
            (None, None),
            (Some(""), None),
            (Some("*/*"), Some("text")),
            (Some("image/png"), None),
            (Some("application/json"), Some("json")),
            (Some("APPLICATION/JSON"), Some("json")),
            (Some("application/json, text/plain"), Some("text")),
            (Some("application/json, text/plain;q=0.5"), Some("json")),
            (Some("application/*;q=0.2,text/*;q=0.1"), Some("json")),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), Some("text")),
            (Some("text/plain;q=0, */*;q=0.1"), Some("json")),
            (Some("text/plain; charset=utf-8; q=0.3, application/json;q=nonsense"), Some("text")),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(best(&headers, &offers), expected, "{accept:?}");
        }
    }
}
