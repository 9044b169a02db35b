//! Errors of invalid requests. Except for one deviation, the texts are those of TensorFlow Serving.

use servable_codec::json::{DEFAULT_MAX_NESTING, decode_predict};
use servable_model::error::{Code, ServingError};
use servable_model::signature::Signature;

use crate::support::{decode, signature};

/// The inputs of the signature, the body, the message.
#[rustfmt::skip]
const CASES: &[(&str, &str, &str)] = &[
    // Syntax.
    ("x:float", " ", "JSON Parse error: The document is empty. at offset: 1"),
    ("x:float", "\n", "JSON Parse error: The document is empty. at offset: 1"),
    ("x:float", "{", "JSON Parse error: Missing a name for object member. at offset: 1"),
    ("x:float", "}", "JSON Parse error: The document is empty. at offset: 0"),
    ("x:float", r#"{"instances":[1],}"#, "JSON Parse error: Missing a name for object member. at offset: 17"),
    ("x:float", r#"{"instances":[1,]}"#, "JSON Parse error: Invalid value. at offset: 16"),
    ("x:float", r#"{"instances":[1 2]}"#, "JSON Parse error: Missing a comma or ']' after an array element. at offset: 16"),
    ("x:float", r#"{"instances" [1]}"#, "JSON Parse error: Missing a colon after a name of object member. at offset: 13"),
    ("x:float", "{instances:[1]}", "JSON Parse error: Missing a name for object member. at offset: 1"),
    ("x:float", "{'instances':[1]}", "JSON Parse error: Missing a name for object member. at offset: 1"),
    ("x:float", r#"{"instances":[1]"#, "JSON Parse error: Missing a comma or '}' after an object member. at offset: 16"),
    ("x:float", r#"{"instances":[01]}"#, "JSON Parse error: Missing a comma or ']' after an array element. at offset: 15"),
    ("x:float", r#"{"instances":[+1]}"#, "JSON Parse error: Invalid value. at offset: 14"),
    ("x:float", r#"{"instances":[1e]}"#, "JSON Parse error: Miss exponent in number. at offset: 16"),
    ("x:float", r#"{"instances":["\x"]}"#, "JSON Parse error: Invalid escape character in string. at offset: 15"),
    ("x:float", r#"{"instances":["\ud800"]}"#, "JSON Parse error: The surrogate pair in string is invalid. at offset: 15"),
    ("x:float", r#"{"instances":["\u12G4"]}"#, r"JSON Parse error: Incorrect hex digit after \u escape in string. at offset: 15"),
    ("x:float", "{\"instances\":[\"a\tb\"]}", "JSON Parse error: Invalid escape character in string. at offset: 16"),
    ("x:float", r#"{"instances":[nan]}"#, "JSON Parse error: Invalid value. at offset: 15"),
    ("x:float", r#"{"instances":[Infinit]}"#, "JSON Parse error: Invalid value. at offset: 21"),
    ("x:float", "instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
    // The document.
    ("default:int32", r#"{"signature_name": 5,"instances": [[1,2],[3,4],[5,6,7]]}"#, "JSON Value: {\n    \"signature_name\": 5,\n    \"instances\": [[1, 2], [3, 4], [5, 6, 7]]\n} not formatted correctly. 'signature_name' key must be a string value."),
    ("default:int32", r#"{"instances": [[1,2],[3,4],[5,6,7]],"inputs": [[1,2],[3,4],[5,6,7]]}"#, "JSON Value: {\n    \"instances\": [[1, 2], [3, 4], [5, 6, 7]],\n    \"inputs\": [[1, 2], [3, 4], [5, 6, 7]]\n} Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "),
    ("x:float", "null", "JSON Value: null Is not object"),
    ("x:float", "1", "JSON Value: 1 Is not object"),
    ("x:float", r#""a""#, r#"JSON Value: "a" Is not object"#),
    ("x:float", r#"{"Instances":[1]}"#, "Missing 'inputs' or 'instances' key"),
    ("x:float", r#"{"instances":[]}"#, "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
    ("x:float", r#"{"instances":1}"#, "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array"),
    ("x:float", r#"{"instances":{}}"#, "JSON Value: {\n    \"instances\": {}\n} Expecting 'instances' to be an list/array"),
    ("x:float", r#"{"instances":"a"}"#, "JSON Value: {\n    \"instances\": \"a\"\n} Expecting 'instances' to be an list/array"),
    ("x:float", r#"{"instances":null}"#, "JSON Value: {\n    \"instances\": null\n} Expecting 'instances' to be an list/array"),
    ("x:float", r#"{"inputs":{}}"#, "Missing named input: x in 'inputs' object."),
    ("x:float", r#"{"inputs":{"y":3}}"#, "Missing named input: x in 'inputs' object."),
    ("a:float b:int32", r#"{"inputs":{"a":1}}"#, "Missing named input: b in 'inputs' object."),
    ("x:float", r#"{"instances":{"a":[1.5,1e300,1e-300,1e21,1e22,0.000001,1e-7],"b":{"c":[{"d":1},{}],"e":[]}}}"#, "JSON Value: {\n    \"instances\": {\n        \"a\": [1.5, 1e300, 1e-300, 1e21, 1e22, 0.000001, 1e-7],\n        \"b\": {\n            \"c\": [{\n                    \"d\": 1\n                }, {}],\n            \"e\": []\n        }\n    }\n} Expecting 'instances' to be an list/array"),
    // Rows, lists and leaves.
    ("default:int32", r#"{"instances": [[1,2],[3,4],[5,6,7]]}"#, "Failed to process element: 2 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 3"),
    ("default:int32", r#"{"instances": [[1,2],[3,4],[[5,6]]]}"#, "Failed to process element: 2 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [2] but got: [1,2]"),
    ("default:int32", r#"{"instances": [[1,2],["a", "b"]]}"#, r#"Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: "a" Type: String is not of expected type: int32"#),
    ("int_tensor:int32 str_tensor:string", r#"{"instances": [{"int_tensor": [[1,2],[3,4],[5,6]],"str_tensor": ["foo", "bar"]},{"int_tensor": [[[7,8],[9,0],[1,2]]],"str_tensor": ["baz", "bat"]}]}"#, "Failed to process element: 1 key: int_tensor of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [3,2] but got: [1,3,2]"),
    ("int_tensor:int32 str_tensor:string", r#"{"instances": [{"int_tensor": [[1,2],[3,4],[5,6],[7,8]],"str_tensor": ["foo", "bar"]},{"int_tensor": [[7,8],[9,0],[1,2]],"str_tensor": ["baz", "bat"]}]}"#, "Failed to process element: 1 key: int_tensor of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 8 but got: 6"),
    ("int_tensor:int32 str_tensor:string", r#"{"instances": [{"int_tensor": [[1,2],[3,4],[5,6]],"str_tensor": ["foo", "bar"]},[1, 20, 30],{"int_tensor": [[[7,8],[9,0],[1,2]]],"str_tensor": ["baz", "bat"]}]}"#, "Expecting object but got list at item 1 of input list"),
    ("str_tensor:string", r#"{"instances": [["baz", "bar"],{"str_tensor": ["baz", "bat"]}]}"#, "Expecting value/list but got object at item 1 of input list"),
    ("x:float", r#"{"instances":[[1],[]]}"#, "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 1 but got: 0"),
    ("x:float", r#"{"instances":[[1],1]}"#, "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [1] but got: []"),
    ("x:float", r#"{"instances":[[1,2],[3]]}"#, "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1"),
    ("x:float", r#"{"instances":[[1,[2]]]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: Encountered list at unexpected level: 1 expected < 1"),
    ("x:float", r#"{"instances":[[[1],2]]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
    ("x:float", r#"{"instances":[[[1,2],[3]]]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ("x:float", r#"{"instances":[[1,2],[[3],[4]]]}"#, "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [2] but got: [2,1]"),
    ("x:float", r#"{"instances":[null]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: null Type: Null is not of expected type: float"),
    ("x:float", r#"{"instances":[true]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: true Type: True is not of expected type: float"),
    ("x:float", r#"{"instances":["1"]}"#, r#"Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: "1" Type: String is not of expected type: float"#),
    ("x:float", r#"{"instances":[{}]}"#, "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: x"),
    ("x:float", r#"{"instances":[{"x":1},2]}"#, "Expecting object but got list at item 1 of input list"),
    ("x:float", r#"{"instances":[{"y":1}]}"#, "Failed to process element: 0 key: y of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: y"),
    ("x:float", r#"{"instances":[{"x":1,"y":2}]}"#, "Failed to process element: 0 key: y of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: y"),
    ("x:float", r#"{"instances":[{"b64":"aa"}]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: {\n    \"b64\": \"aa\"\n} Type: Object is not of expected type: float"),
    ("x:float", r#"{"instances":[{"x":{"b64":"aGk="}}]}"#, "Failed to process element: 0 key: x of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: {\n    \"b64\": \"aGk=\"\n} Type: Object is not of expected type: float"),
    ("x:float", r#"{"inputs":[[],[1]]}"#, "Encountered list at unexpected size: 1 at level: 1 expected size: 0"),
    ("x:float", r#"{"inputs":[1,[2]]}"#, "Encountered list at unexpected level: 1 expected < 1"),
    ("x:float", r#"{"inputs":[[1],2]}"#, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
    ("x:float", r#"{"inputs":[[1,2],[3]]}"#, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ("x:float", r#"{"inputs":null}"#, "JSON Value: null Type: Null is not of expected type: float"),
    ("x:float", r#"{"inputs":"s"}"#, r#"JSON Value: "s" Type: String is not of expected type: float"#),
    ("x:float", r#"{"inputs":true}"#, "JSON Value: true Type: True is not of expected type: float"),
    ("x:float", r#"{"inputs":{"x":{"y":1}}}"#, "JSON Value: {\n    \"y\": 1\n} Type: Object is not of expected type: float"),
    ("x:float", r#"{"inputs":{"x":[1,{"y":1}]}}"#, "JSON Value: {\n    \"y\": 1\n} Type: Object is not of expected type: float"),
    ("x:float", r#"{"inputs":{"b64":"aGk="}}"#, "JSON Value: {\n    \"b64\": \"aGk=\"\n} Type: Object is not of expected type: float"),
    ("x:int32", r#"{"instances":[2147483648]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 2147483648 Type: Number is not of expected type: int32"),
    ("x:int32", r#"{"instances":[1.0]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1.0 Type: Number is not of expected type: int32"),
    ("x:int32", r#"{"instances":[1.5]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1.5 Type: Number is not of expected type: int32"),
    ("x:int32", r#"{"instances":[1e2]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 100.0 Type: Number is not of expected type: int32"),
    ("x:int32", r#"{"instances":[true]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: true Type: True is not of expected type: int32"),
    ("x:int32", r#"{"instances":["1"]}"#, r#"Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: "1" Type: String is not of expected type: int32"#),
    ("x:int32", r#"{"instances":[NaN]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value:  Type: Number is not of expected type: int32"),
    ("x:int32", r#"{"instances":[null]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: null Type: Null is not of expected type: int32"),
    ("x:int32", r#"{"instances":[{"b64":"aa"}]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: {\n    \"b64\": \"aa\"\n} Type: Object is not of expected type: int32"),
    ("x:int8", r#"{"instances":[2147483648]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 2147483648 Type: Number is not of expected type: int8"),
    ("x:uint16", r#"{"instances":[1]}"#, "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: uint16"),
    ("x:uint32", r#"{"instances":[4294967296]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 4294967296 Type: Number is not of expected type: uint32"),
    ("x:uint32", r#"{"instances":[-1]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: -1 Type: Number is not of expected type: uint32"),
    ("x:uint32", r#"{"instances":[1.0]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1.0 Type: Number is not of expected type: uint32"),
    ("x:int64", r#"{"instances":[-9223372036854775809]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: -9223372036854776000.0 Type: Number is not of expected type: int64"),
    ("x:int64", r#"{"instances":[1.0]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1.0 Type: Number is not of expected type: int64"),
    ("x:int64", r#"{"instances":[1e3]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1000.0 Type: Number is not of expected type: int64"),
    ("x:uint64", r#"{"instances":[1.0]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1.0 Type: Number is not of expected type: uint64"),
    ("x:bool", r#"{"instances":[1]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1 Type: Number is not of expected type: bool"),
    ("x:bool", r#"{"instances":["true"]}"#, r#"Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: "true" Type: String is not of expected type: bool"#),
    ("x:bool", r#"{"instances":[null]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: null Type: Null is not of expected type: bool"),
    ("x:half", r#"{"instances":[1]}"#, "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half"),
    ("x:half", r#"{"inputs":[1]}"#, "Conversion of JSON Value: 1 to type: half"),
    ("x:bfloat16", r#"{"instances":[1]}"#, "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: bfloat16"),
    ("x:bfloat16", r#"{"inputs":[1]}"#, "Conversion of JSON Value: 1 to type: bfloat16"),
    ("x:complex64", r#"{"instances":[1]}"#, "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: complex64"),
    ("x:complex64", r#"{"inputs":[1]}"#, "Conversion of JSON Value: 1 to type: complex64"),
    ("x:qint8", r#"{"inputs":[1]}"#, "Conversion of JSON Value: 1 to type: qint8"),
    ("x:uint16", r#"{"inputs":[1]}"#, "Conversion of JSON Value: 1 to type: uint16"),
    ("x:string", r#"{"instances":[{"b64":"aGVsbG8=="}]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: Unable to base64 decode"),
    ("x:string", r#"{"instances":[{"b64":"-_-_"}]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: Unable to base64 decode"),
    ("x:string", r#"{"instances":[{"b64":"a"}]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: Unable to base64 decode"),
    ("x:string", r#"{"instances":[{"b64":"aGk=x"}]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: Unable to base64 decode"),
    ("x:string", r#"{"instances":[{"b64":1}]}"#, "Failed to process element: 0 key: b64 of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: b64"),
    ("x:string", r#"{"inputs":{"x":{"b64":1}}}"#, "JSON Value: {\n    \"b64\": 1\n} not formatted correctly for base64 data"),
    ("x:string", r#"{"inputs":[{"b64":1}]}"#, "JSON Value: {\n    \"b64\": 1\n} not formatted correctly for base64 data"),
    ("x:string", r#"{"instances":[{"B64":"aGk="}]}"#, "Failed to process element: 0 key: B64 of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: B64"),
    ("x:string", r#"{"instances":[5]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 5 Type: Number is not of expected type: string"),
    ("x:string", r#"{"instances":[true]}"#, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: true Type: True is not of expected type: string"),
    ("a:float b:int32", r#"{"instances":[1]}"#, "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"),
    ("a:float b:int32", r#"{"instances":[[1]]}"#, "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"),
    ("a:float b:int32", r#"{"instances":[{"a":1}]}"#, "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"a\": 1\n} keys must be equal to: a,b"),
    ("a:float b:int32", r#"{"instances":[{"a":1,"b":2,"c":3}]}"#, "Failed to process element: 0 key: c of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: c"),
    ("a:float b:int32", r#"{"instances":[{"a":1,"b":2},{"a":1}]}"#, "Failed to process element: 1 of 'instances' list. JSON object: {\n    \"a\": 1\n} keys must be equal to: a,b"),
    ("a:float b:int32", r#"{"instances":[{"a":1,"b":2},{"a":[1],"b":2}]}"#, "Failed to process element: 1 key: a of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]"),
    ("a:float b:int32", r#"{"instances":[{"a":1,"b":2},[1]]}"#, "Expecting object but got list at item 1 of input list"),
    ("a:float b:int32", r#"{"instances":[{"a":1,"b":2.5}]}"#, "Failed to process element: 0 key: b of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 2.5 Type: Number is not of expected type: int32"),
    ("a:float b:int32", r#"{"inputs":[1]}"#, "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"),
    ("a:float b:int32", r#"{"inputs":{"a":"z","b":1}}"#, r#"JSON Value: "z" Type: String is not of expected type: float"#),
    ("a:float b:int32", r#"{"instances":[{"a":{"x":1},"b":2}]}"#, "Failed to process element: 0 key: a of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: {\n    \"x\": 1\n} Type: Object is not of expected type: float"),
    // Ends of input, numbers, and text that stops before a NaN.
    ("x:float", "", "JSON Parse error: The document is empty"),
    ("x:float", "{\"instances\":[1\0]}", "JSON Parse error: Missing a comma or ']' after an array element. at offset: 15"),
    ("x:float", r#"{"instances":[1e309]}"#, "JSON Parse error: Number too big to be stored in double. at offset: 14"),
    ("x:float", r#"{"instances":[1.]}"#, "JSON Parse error: Miss fraction part in number. at offset: 16"),
    ("x:float", r#"{"a":[1,NaN"#, "JSON Parse error: Missing a comma or ']' after an array element. at offset: 11"),
    ("x:float", r#"{"a":[1,NaN]}"#, "Missing 'inputs' or 'instances' key"),
    ("x:float", r#"{"a":[1,NaN],"signature_name":1}"#, "JSON Value: {\n    \"a\": [1,  not formatted correctly. 'signature_name' key must be a string value."),
    ("a:string b:int32", r#"{"instances":[{"b64":""}]}"#, "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}."),
    ("x:float_ref", r#"{"inputs":[]}"#, "tensor parsing error: x"),
    // A deliberate deviation: TensorFlow Serving stores another number.
    ("x:int8", r#"{"inputs":[300]}"#, "JSON Value: 300 Type: Number is not of expected type: int8"),
    ("x:int8", r#"{"inputs":[-129]}"#, "JSON Value: -129 Type: Number is not of expected type: int8"),
    ("x:uint8", r#"{"inputs":[-1]}"#, "JSON Value: -1 Type: Number is not of expected type: uint8"),
    ("x:int16", r#"{"inputs":[32768]}"#, "JSON Value: 32768 Type: Number is not of expected type: int16"),
];

#[test]
fn mistakes_are_named() {
    for &(inputs, body, expected) in CASES {
        let signature = signature(inputs);
        match decode(&signature, body.as_bytes()) {
            Ok(_) => panic!("{body} was accepted"),
            Err(error) => assert_eq!(error.text(), expected, "{body}"),
        }
    }
}

#[test]
fn a_dtype_without_json_form_is_unimplemented_in_columns_and_invalid_in_rows() {
    let signature = signature("x:half");
    assert_eq!(decode(&signature, br#"{"inputs":[1]}"#).unwrap_err().code, Code::Unimplemented);
    assert_eq!(decode(&signature, br#"{"instances":[1]}"#).unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn the_first_of_several_mistakes_is_reported() {
    let not_found = |_: Option<&[u8]>| Err::<&Signature, _>(ServingError::not_found("no such model"));
    let no_inputs = Signature::default();
    let none = |_: Option<&[u8]>| Ok(&no_inputs);
    let error = |body: &str, resolve: &dyn Fn(Option<&[u8]>) -> Result<_, ServingError>| {
        decode_predict(body.as_bytes(), DEFAULT_MAX_NESTING, resolve).unwrap_err().text().into_owned()
    };

    let syntax = error(r#"{"instances":[1"#, &not_found);
    assert_eq!(syntax, "JSON Parse error: Missing a comma or ']' after an array element. at offset: 15");
    assert!(error(r#"{"signature_name":1}"#, &not_found).ends_with("'signature_name' key must be a string value."));
    assert_eq!(error(r#"{"instances":[1]}"#, &not_found), "no such model");
    assert_eq!(error("{}", &not_found), "no such model");
    assert_eq!(error("{}", &none), "Failed to get input map for signature: DEFAULT");
    assert_eq!(error(r#"{"inputs":{}}"#, &none), "Failed to get input map for signature: DEFAULT");
    assert_eq!(error(r#"{"signature_name":"é"}"#, &none), "Failed to get input map for signature: é");
}

#[test]
fn long_values_are_cut_after_the_token_that_reaches_256_bytes() {
    let signature = signature("x:float");
    let numbers: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let body = format!("{{\"instances\":{{\"a\":[{}]}}}}", numbers.join(","));
    let text = decode(&signature, body.as_bytes()).unwrap_err().text().into_owned();
    let shown = "JSON Value: {\n    \"instances\": {\n        \"a\": [0, 1, 2,";
    assert!(text.starts_with(shown) && text.ends_with(", 57, 58 Expecting 'instances' to be an list/array"), "{text}");
}
