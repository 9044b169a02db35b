//! Server reflection: the protobuf definitions of all services, for clients without them.
//!
//! Versions 1 and 1 alpha have the same messages on the wire, so that one implementation serves both.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::Response;
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

use super::models::malformed;
use crate::protocol::grpc_wire::framing::MessageReader;
use crate::protocol::grpc_wire::stream::{self, Gone, Messages, Sender};
use crate::service::Service;
use servable_codec::proto::grpc::reflection::v1::server_reflection_request::MessageRequest;
use servable_codec::proto::grpc::reflection::v1::server_reflection_response::MessageResponse;
use servable_codec::proto::grpc::reflection::v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
};
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError};

/// A `FileDescriptorSet` of every service, generated from `protos/`.
const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");

/// `ServerReflectionInfo`: answers the requests of a stream one by one.
pub(super) fn answer(
    service: &Arc<Service>,
    mut questions: MessageReader,
    call: Call,
    is_served: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> Result<Response<Messages>> {
    let mut changes = service.readiness.changes(&service.serving_map);
    stream::answer(service, call, |sender| async move {
        tokio::select! {
            ended = converse(&mut questions, &sender, &is_served) => ended,
            () = changes.drained() => Ok(Err(stream::shutting_down())),
        }
    })
}

async fn converse(
    questions: &mut MessageReader,
    sender: &Sender,
    is_served: &(impl Fn(&str) -> bool + Sync),
) -> Result<Result<()>, Gone> {
    loop {
        let question = match questions.next().await {
            Ok(Some(question)) => question,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        let Ok(question) = ServerReflectionRequest::decode(question) else {
            return Ok(Err(malformed()));
        };
        sender.send(&response(question, is_served)).await?;
    }
}

fn response(question: ServerReflectionRequest, is_served: impl Fn(&str) -> bool) -> ServerReflectionResponse {
    let definitions = Definitions::get();
    let answer = match &question.message_request {
        None => Err(ServingError::invalid_argument("the request asks for nothing")),
        Some(MessageRequest::ListServices(_)) => {
            let served = definitions.services.iter().filter(|name| is_served(name));
            let service = served.map(|name| ServiceResponse { name: name.clone() }).collect();
            Ok(MessageResponse::ListServicesResponse(ListServiceResponse { service }))
        }
        Some(MessageRequest::FileByFilename(name)) => definitions.with_imports(definitions.by_name.get(name), name),
        Some(MessageRequest::FileContainingSymbol(name)) => {
            definitions.with_imports(definitions.by_symbol.get(name.trim_start_matches('.')), name)
        }
        Some(MessageRequest::AllExtensionNumbersOfType(name)) if definitions.by_symbol.contains_key(name) => {
            let none = ExtensionNumberResponse { base_type_name: name.clone(), extension_number: Vec::new() };
            Ok(MessageResponse::AllExtensionNumbersResponse(none))
        }
        Some(MessageRequest::AllExtensionNumbersOfType(name)) => Err(not_found(name)),
        Some(MessageRequest::FileContainingExtension(extension)) => {
            Err(not_found(&format!("{} {}", extension.containing_type, extension.extension_number)))
        }
    };
    let answer = answer.unwrap_or_else(|error| {
        MessageResponse::ErrorResponse(ErrorResponse {
            error_code: error.code as i32,
            error_message: error.text().into_owned(),
        })
    });
    ServerReflectionResponse {
        valid_host: question.host.clone(),
        original_request: Some(question),
        message_response: Some(answer),
    }
}

fn not_found(name: &str) -> ServingError {
    ServingError::new(Code::NotFound, format!("there is no definition of {name}"))
}

/// The files of the definitions, and the symbols that they define.
struct Definitions {
    files: Vec<File>,
    by_name: HashMap<String, usize>,
    by_symbol: HashMap<String, usize>,
    services: BTreeSet<String>,
}

struct File {
    serialized: Bytes,
    imports: Vec<String>,
}

/// A `FileDescriptorSet` with encoded files, which are sent unchanged.
#[derive(Clone, PartialEq, Message)]
struct SerializedFiles {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

impl Definitions {
    /// The definitions of this build, read at first use.
    fn get() -> &'static Self {
        static DEFINITIONS: OnceLock<Definitions> = OnceLock::new();
        DEFINITIONS.get_or_init(|| Self::read(Bytes::from_static(DESCRIPTORS)))
    }

    fn read(descriptors: Bytes) -> Self {
        let serialized = SerializedFiles::decode(descriptors).expect("it was generated").file;
        let mut definitions = Self {
            files: Vec::with_capacity(serialized.len()),
            by_name: HashMap::new(),
            by_symbol: HashMap::new(),
            services: BTreeSet::new(),
        };
        for serialized in serialized {
            let file = FileDescriptorProto::decode(serialized.clone()).expect("it was generated");
            definitions.add(&file);
            definitions.by_name.insert(file.name().to_owned(), definitions.files.len());
            definitions.files.push(File { serialized, imports: file.dependency });
        }
        definitions
    }

    fn add(&mut self, file: &FileDescriptorProto) {
        let package = file.package();
        for message in &file.message_type {
            self.add_message(package, message);
        }
        for r#enum in &file.enum_type {
            self.add_enum(package, r#enum);
        }
        for service in &file.service {
            let name = self.add_symbol(package, service.name());
            for method in &service.method {
                self.add_symbol(&name, method.name());
            }
            self.services.insert(name);
        }
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = self.add_symbol(scope, message.name());
        for field in &message.field {
            self.add_symbol(&name, field.name());
        }
        for nested in &message.nested_type {
            self.add_message(&name, nested);
        }
        for r#enum in &message.enum_type {
            self.add_enum(&name, r#enum);
        }
    }

    fn add_enum(&mut self, scope: &str, r#enum: &EnumDescriptorProto) {
        self.add_symbol(scope, r#enum.name());
        for value in &r#enum.value {
            // Values of an enum belong to the scope around the enum.
            self.add_symbol(scope, value.name());
        }
    }

    /// Adds a symbol of the file that is being read. Returns its full name.
    fn add_symbol(&mut self, scope: &str, name: &str) -> String {
        let full = if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") };
        self.by_symbol.insert(full.clone(), self.files.len());
        full
    }

    /// A file and all its imports, each once.
    fn with_imports(&self, file: Option<&usize>, asked: &str) -> Result<MessageResponse> {
        let mut wanted = vec![*file.ok_or_else(|| not_found(asked))?];
        let mut next = 0;
        while let Some(&position) = wanted.get(next) {
            for import in &self.files[position].imports {
                let import = self.by_name[import];
                if !wanted.contains(&import) {
                    wanted.push(import);
                }
            }
            next += 1;
        }
        let file_descriptor_proto = wanted.into_iter().map(|position| self.files[position].serialized.clone());
        Ok(MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: file_descriptor_proto.collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(question: MessageRequest) -> MessageResponse {
        let question = ServerReflectionRequest { host: "h".to_owned(), message_request: Some(question) };
        let response = response(question.clone(), |name| name != "tensorflow.serving.SessionService");
        assert_eq!(response.original_request, Some(question));
        response.message_response.expect("there is always an answer")
    }

    fn files(question: MessageRequest) -> Vec<String> {
        let MessageResponse::FileDescriptorResponse(found) = ask(question) else { panic!("it is defined") };
        let decoded = found.file_descriptor_proto.into_iter().map(FileDescriptorProto::decode);
        decoded.map(|file| file.expect("a definition").name().to_owned()).collect()
    }

    #[test]
    fn services_are_listed_and_symbols_of_every_kind_are_found() {
        let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())) else {
            panic!("they are always listed")
        };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&"tensorflow.serving.PredictionService"));
        assert!(!names.contains(&"tensorflow.serving.SessionService"));
        for (symbol, file) in [
            ("tensorflow.serving.PredictionService", "tensorflow_serving/apis/prediction_service.proto"),
            ("tensorflow.serving.PredictionService.Predict", "tensorflow_serving/apis/prediction_service.proto"),
            ("tensorflow.TensorProto", "tensorflow/core/framework/tensor.proto"),
            ("tensorflow.TensorProto.dtype", "tensorflow/core/framework/tensor.proto"),
            ("tensorflow.TensorShapeProto.Dim", "tensorflow/core/framework/tensor_shape.proto"),
            ("tensorflow.DT_FLOAT", "tensorflow/core/framework/types.proto"),
        ] {
            assert_eq!(files(MessageRequest::FileContainingSymbol(symbol.to_owned()))[0], file, "{symbol}");
        }
    }

    #[test]
    fn a_file_is_sent_with_its_imports_each_once() {
        let name = "tensorflow_serving/apis/prediction_service.proto";
        let found = files(MessageRequest::FileByFilename(name.to_owned()));
        assert!(found.iter().any(|file| file == "google/protobuf/any.proto"), "{found:?}");
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len());
    }

    #[test]
    fn an_undefined_symbol_is_an_error_of_one_request() {
        for question in [
            MessageRequest::FileByFilename("none.proto".to_owned()),
            MessageRequest::FileContainingSymbol("none".to_owned()),
            MessageRequest::AllExtensionNumbersOfType("none".to_owned()),
        ] {
            let MessageResponse::ErrorResponse(error) = ask(question) else { panic!("there is no such definition") };
            assert_eq!(error.error_code, Code::NotFound as i32);
        }
    }
}
