//! Valid requests, some of them unusual.

use servable_codec::json::{DEFAULT_MAX_NESTING, decode_predict};
use servable_model::error::ServingError;
use servable_model::signature::Signature;
use servable_model::tensor::{ALIGNMENT, Buffer, Elements};

use crate::support::{decode, describe, signature};

/// The inputs of the signature, the body, the tensors.
const CASES: &[(&str, &str, &str)] = &[
    // Row format.
    ("x:int32", r#"{"instances": [[1,2],[3,4],[5,6]]}"#, "row x int32[3,2] 1 2 3 4 5 6"),
    ("x:float", r#"{"instances":[{"x":[1,2]},{"x":[3,4]}]}"#, "row x float[2,2] 1 2 3 4"),
    ("x:float", r#"{"instances":[[],[]]}"#, "row x float[2,0]"),
    ("x:float", r#"{"instances":[[[[1],[2]]],[[[3],[4]]]]}"#, "row x float[2,1,2,1] 1 2 3 4"),
    ("a:float b:int32", r#"{"instances":[{"b":2,"a":1},{"a":3,"b":4}]}"#, "row a float[2] 1 3 b int32[2] 2 4"),
    // Columnar format.
    ("x:float", r#"{"inputs":1}"#, "columnar x float[] 1"),
    ("x:float", r#"{"inputs":{"x":[[1,2]]}}"#, "columnar x float[1,2] 1 2"),
    ("x:float", r#"{"inputs":[[[[]]]]}"#, "columnar x float[1,1,1,0]"),
    ("x:half", r#"{"inputs":[]}"#, "columnar x half[0]"),
    ("a:float b:int32", r#"{"inputs":{"b":[1,2],"a":3}}"#, "columnar a float[] 3 b int32[2] 1 2"),
    ("a:float b:int32", r#"{"inputs":{"b":1,"c":[{}],"a":2}}"#, "columnar a float[] 2 b int32[] 1"),
    // Repeated keys: in an object of inputs the first counts, in a row each is another value.
    ("x:float", r#"{"instances":[1],"instances":[2]}"#, "row x float[1] 1"),
    ("x:float", r#"{"inputs":{"x":1,"x":2}}"#, "columnar x float[] 1"),
    ("x:float", r#"{"instances":[{"x":1,"x":2}]}"#, "row x float[1] 1"),
    ("x:float", r#"{"instances":[{"x":1,"x":2},{"x":3}]}"#, "row x float[2] 1 2"),
    ("x:string", r#"{"instances":[{"x":"a","x":"b"},{"x":"c"}]}"#, "row x string[2] a b"),
    // Grammar.
    ("x:float", "\u{feff} {\"instances\"\t:\n[ 1\r, 2 ] } ", "row x float[2] 1 2"),
    ("x:float", r#"{"instances":[1]} {"x":1} and more"#, "row x float[1] 1"),
    ("x:float", r#"{"foo":{"a":[1]},"instances":[1],"bar":null}"#, "row x float[1] 1"),
    ("x:float", r#"{"inst\u0061nces":[1]}"#, "row x float[1] 1"),
    ("x:float", r#"{"instances":[{"\u0078":1}]}"#, "row x float[1] 1"),
    // Names of members end at a NUL, in rows only.
    ("x:float", r#"{"instances":[{"x\u0000y":1}]}"#, "row x float[1] 1"),
    // Numbers.
    ("x:float", r#"{"instances":[1e5,1E+5,1e-400,-1.5,-0,-0.0]}"#, "row x float[6] 100000 100000 0 -1.5 0 -0"),
    ("x:float", r#"{"instances":[NaN,-NaN,Inf,-Inf,-Infinity]}"#, "row x float[5] NaN NaN inf -inf -inf"),
    // The letters of NaN and Inf may be mixed, and a fraction or exponent makes a number of them, which is 0.
    ("x:float", r#"{"instances":[NInf,-NaInf,NaN.0,Inf.5,Infe1]}"#, "row x float[5] inf -inf 0 0.5 0"),
    ("x:float", r#"{"instances":[1435774380, 1e39, -1e39, 1e-40]}"#, "row x float[4] 1435774300 inf -inf 0"),
    (
        "x:double",
        r#"{"instances":[9007199254740993, 18446744073709551616]}"#,
        "row x double[2] 9007199254740992 18446744073709552000",
    ),
    // Not the nearest double: 123456789.12345679 would be that.
    ("x:double", r#"{"instances":[123456789.123456789]}"#, "row x double[1] 123456789.1234568"),
    ("x:double", r#"{"instances":[1.8e308,5e-324,1e-310,-0.0]}"#, "row x double[4] inf 0 0 -0"),
    ("x:int32", r#"{"instances":[2147483647,-2147483648,-0]}"#, "row x int32[3] 2147483647 -2147483648 0"),
    ("x:int8", r#"{"instances":[-128,127]}"#, "row x int8[2] -128 127"),
    ("x:uint8", r#"{"instances":[0,255]}"#, "row x uint8[2] 0 255"),
    ("x:int16", r#"{"instances":[-32768,32767]}"#, "row x int16[2] -32768 32767"),
    ("x:uint32", r#"{"instances":[4294967295]}"#, "row x uint32[1] 4294967295"),
    ("x:int64", r#"{"instances":[-9223372036854775808]}"#, "row x int64[1] -9223372036854775808"),
    ("x:uint64", r#"{"instances":[18446744073709551615]}"#, "row x uint64[1] 18446744073709551615"),
    ("x:bool", r#"{"instances":[true, false]}"#, "row x bool[2] 1 0"),
    // Strings.
    ("x:string", r#"{"instances":["\"\\\/\b\f\n\r\t","é"]}"#, r#"row x string[2] \"\\/\x08\x0c\n\r\t \xc3\xa9"#),
    (
        "x:string",
        r#"{"instances":["\ud83d\ude00 \u00e9 \udc00"]}"#,
        r"row x string[1] \xf0\x9f\x98\x80 \xc3\xa9 \xed\xb0\x80",
    ),
    // Base64.
    ("x:string", r#"{"instances":[{"b64":"aGVsbG8="},"hi"]}"#, "row x string[2] hello hi"),
    ("x:string", r#"{"instances":[["a",{"b64":"aGk="}]]}"#, "row x string[1,2] a hi"),
    (
        "x:string",
        r#"{"instances":[{"b64":"aGVsbG8"},{"b64":"aGVsbG8."},{"b64":" a G\nk = "}]}"#,
        "row x string[3] hello hello hi",
    ),
    (
        "x:string",
        r#"{"instances":[{"b64":"+/+/"},{"b64":"aG"},{"b64":"aR=="},{"b64":""}]}"#,
        r"row x string[4] \xfb\xff\xbf h i ",
    ),
    ("x:string", r#"{"inputs":{"b64":"aGk="}}"#, "columnar x string[] hi"),
    ("x:string", r#"{"inputs":{"x":{"b64":"aGk="}}}"#, "columnar x string[] hi"),
    ("b64:string", r#"{"instances":[{"b64":"aGk="}]}"#, "row b64 string[1] hi"),
    ("b64:string", r#"{"instances":[{"b64":["aGk="]}]}"#, "row b64 string[1,1] aGk="),
    ("b64:float", r#"{"instances":[{"b64":1},{"b64":2}]}"#, "row b64 float[2] 1 2"),
];

#[test]
fn requests_become_tensors() {
    for &(inputs, body, expected) in CASES {
        let signature = signature(inputs);
        match decode(&signature, body.as_bytes()) {
            Ok(input) => assert_eq!(describe(&input), expected, "{body}"),
            Err(error) => panic!("{body}: {error}"),
        }
    }
}

#[test]
fn invalid_utf8_in_strings_is_passed_on() {
    let signature = signature("x:string");
    let input = decode(&signature, b"{\"instances\":[\"\xff\x7f\"]}").unwrap();
    assert_eq!(describe(&input), r"row x string[1] \xff\x7f");
}

#[test]
fn a_signature_name_may_be_anywhere_in_the_object() {
    let signature = signature("x:string");
    let cases: [(&str, &[u8]); 8] = [
        (r#"{"instances":["a"]}"#, b""),
        (r#"{"signature_name":"","instances":["a"]}"#, b""),
        (r#"{"signature_name":"s","instances":["a"]}"#, b"s"),
        (r#"{"instances":["a"],"signature_name":"s"}"#, b"s"),
        (r#"{"instances":["\"signature_name\":\"t\""],"signature_name":"s"}"#, b"s"),
        (r#"{"instances":["a"],"extra":{"signature_name":"t"}}"#, b""),
        (r#"{"instances":["a"],"signature_name":"s","signature_name":"t"}"#, b"s"),
        (r#"{"instances":["a"],"signature\u005fname":"\u0073"}"#, b"s"),
    ];
    for (body, expected) in cases {
        let last = std::cell::RefCell::new(Vec::new());
        let resolve = |name: Option<&[u8]>| {
            assert_ne!(name, Some(&b""[..]), "an empty name is no name");
            *last.borrow_mut() = name.unwrap_or_default().to_vec();
            Ok::<&Signature, ServingError>(&signature)
        };
        let input = decode_predict(body.as_bytes(), DEFAULT_MAX_NESTING, resolve).unwrap();
        assert_eq!(input.signature_name, expected, "{body}");
        assert_eq!(*last.borrow(), expected, "{body}");
    }
}

#[test]
fn buffers_are_aligned() {
    let signature = signature("a:float b:uint8");
    let input = decode(&signature, br#"{"instances":[{"a":[1,2,3],"b":1}]}"#).unwrap();
    for tensor in &input.inputs {
        let Elements::Numbers(Buffer::Owned(bytes)) = tensor.elements() else { panic!("an owned buffer") };
        assert_eq!(bytes.as_ptr() as usize % ALIGNMENT, 0);
    }
}

#[test]
fn ranks_go_up_to_254() {
    let signature = signature("x:float");
    let nested = |depth: usize| format!("{{\"inputs\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    let input = decode(&signature, nested(254).as_bytes()).unwrap();
    assert_eq!(input.inputs[0].shape(), [1; 254]);
    for depth in [255, 1_000, 300_000] {
        let error = decode(&signature, nested(depth).as_bytes()).unwrap_err();
        assert_eq!(error.text(), "tensor parsing error: x", "{depth}");
    }
}

#[test]
fn nesting_is_parsed_up_to_the_limit() {
    let signature = signature("x:float");
    let deep = |depth: usize| {
        let (opening, closing) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!("{{\"instances\":[1],\"extra\":{opening}{closing},\"more\":[[]]}}")
    };
    let decode = |body: &str, limit| decode_predict(body.as_bytes(), limit, |_| Ok::<_, ServingError>(&signature));
    for limit in [64, 1000, DEFAULT_MAX_NESTING] {
        assert_eq!(describe(&decode(&deep(limit), limit).unwrap()), "row x float[1] 1");
        let error = decode(&deep(limit + 1), limit).unwrap_err();
        let offset = r#"{"instances":[1],"extra":"#.len() + limit - 1;
        assert_eq!(
            error.text(),
            format!("JSON Parse error: Nested more than {limit} levels deep. at offset: {offset}")
        );
    }
    let unclosed = decode(&"[".repeat(500_000), 500_000).unwrap_err();
    assert_eq!(unclosed.text(), "JSON Parse error: Invalid value. at offset: 500000");
}
