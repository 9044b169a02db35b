//! Protobuf messages, generated from `protos/` by `protos/generate`: change them there.
//!
//! The messages that carry tensors on the request path are not read or written with these types but by
//! [`codec::tensor_proto`](crate::codec::tensor_proto).
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]

pub mod servable {
    include!("servable.rs");
}
pub mod tensorflow {
    include!("tensorflow.rs");
    pub mod error {
        include!("tensorflow.error.rs");
    }
    pub mod serving {
        include!("tensorflow.serving.rs");
        pub mod internal {
            include!("tensorflow.serving.internal.rs");
        }
    }
}
