//! The small pages of TensorFlow Serving for requests outside the API (`docs/spec/rest_api.md` §2.4).

/// The text of a page.
pub fn html(status: u16, reason: &str) -> String {
    format!("<HTML><HEAD>\n<TITLE>{status} {reason}</TITLE>\n</HEAD><BODY>\n<H1>{reason}</H1>\n</BODY></HTML>\n")
}
