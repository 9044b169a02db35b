//! Protobuf messages, generated from `protos/` by `protos/generate`. Edit them there.
//!
//! On the request path, messages with tensors are decoded and encoded without these types, by
//! [`codec::tensor_proto`](crate::tensor_proto).
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]

pub mod grpc {
    pub mod health {
        pub mod v1 {
            include!("grpc.health.v1.rs");
        }
    }
    pub mod reflection {
        pub mod v1 {
            include!("grpc.reflection.v1.rs");
        }
        pub mod v1alpha {
            include!("grpc.reflection.v1alpha.rs");
        }
    }
}
pub mod inference {
    include!("inference.rs");
}
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
    }
}
