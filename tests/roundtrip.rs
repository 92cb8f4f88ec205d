//! Reading and writing lose nothing.

mod common;

use bytes::Bytes;
use common::proto::{self, Content, Field};
use common::{files, name, root};
use std::path::{Path, PathBuf};
use tutee::ir::{Model, text};
use tutee::onnx;

/// Files in which writing says the same in other words: typed data becomes raw, nodes are sorted, attributes get kinds,
/// weights come in; fields that nobody knows are dropped.
const RESPELLED: [&str; 5] = ["dtypes", "old_attributes", "unsorted", "external/model", "unknown_fields"];

/// All models among the fixtures but the one that is there because it is not valid.
fn models() -> Vec<PathBuf> {
    files("fixtures", "onnx").into_iter().filter(|p| !p.ends_with("small/panic.onnx")).collect()
}

fn load(path: &Path) -> Model {
    onnx::load(path).unwrap_or_else(|e| panic!("{e}")).model
}

fn bytes(model: &Model) -> Vec<u8> {
    onnx::to_bytes(model).unwrap()
}

fn decode(bytes: Vec<u8>) -> Model {
    onnx::decode(bytes.into(), None).unwrap().model
}

#[test]
fn decode_then_encode_is_the_identity() {
    for path in files("fixtures/onnx", "onnx") {
        let respelled = RESPELLED.iter().any(|r| path.with_extension("").ends_with(r));
        let same = bytes(&load(&path)) == std::fs::read(&path).unwrap();
        assert_eq!(same, !respelled, "{}", name(&path));
    }
}

#[test]
fn what_was_written_is_written_again() {
    for path in models() {
        let once = load(&path);
        let written = bytes(&once);
        let twice = decode(written.clone());
        assert!(bytes(&twice) == written, "{}", name(&path));
        assert_eq!(text::print::model(&twice), text::print::model(&once));
    }
}

#[test]
fn print_then_parse_is_the_identity() {
    for path in models() {
        let printed = text::print::model(&load(&path));
        let parsed = text::parse::model(&printed).unwrap_or_else(|e| panic!("{}: {e}\n{printed}", name(&path)));
        parsed.graph.verify().unwrap();
        assert_eq!(text::print::model(&parsed), printed, "{}", name(&path));
    }
}

#[test]
fn typed_data_means_what_raw_data_means() {
    let g = load(&root().join("fixtures/onnx/dtypes.onnx")).graph;
    let mut compared = 0;
    for v in g.values() {
        let value = g.value(v);
        if let Some(name) = value.name.strip_suffix("_typed") {
            let Some(raw) = g.find_value(&format!("{name}_raw")) else { continue };
            assert_eq!(value.constant(), g.value(raw).constant(), "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 27);
}

/// Numbers of a packed field, each as an i64 that takes one byte.
fn small(field: u64, values: impl IntoIterator<Item = u8>) -> Vec<u8> {
    proto::bytes(field, values.into_iter().collect::<Vec<_>>())
}

#[test]
fn small_integers_stay_small() {
    let indices = |form: Vec<u8>| {
        let constant = proto::typed_initializer("i", 7, &[1000], &[form]);
        let gather = proto::node("Gather", &["x", "i"], &["y"]);
        proto::model(&[gather, constant, proto::input("x"), proto::output("y")])
    };
    let typed = indices(small(7, (0..1000).map(|_| 3)));
    assert_eq!(bytes(&decode(typed.clone())).len(), typed.len());
    // A Constant node whose value_ints are each a field of its own.
    let ints = (0..100).map(|i| proto::int(8, i % 4)).collect::<Vec<_>>().concat();
    let attribute = proto::bytes(5, [proto::bytes(1, "value_ints"), ints, proto::int(20, 7)].concat());
    let constant = proto::bytes(1, [proto::bytes(2, "i"), proto::bytes(4, "Constant"), attribute].concat());
    let gather = proto::node("Gather", &["x", "i"], &["y"]);
    let node = proto::model(&[constant, gather, proto::input("x"), proto::output("y")]);
    // Without any data, as tensors without elements may be.
    let empty = proto::typed_initializer("i", 7, &[0], &[]);
    let gather = proto::node("Gather", &["x", "i"], &["y"]);
    let none = proto::model(&[gather, empty, proto::input("x"), proto::output("y")]);
    // An initializer that is the output of its graph by way of an Identity.
    let initializer = proto::initializer("c", &[4], &[proto::bytes(9, [7; 16])]);
    let passed = proto::bytes(1, [proto::bytes(1, "c"), proto::bytes(2, "y"), proto::bytes(4, "Identity")].concat());
    let output = proto::model(&[passed, initializer, proto::output("y")]);
    let large = indices(proto::bytes(9, [0x7f; 8000]));
    for file in [typed, node, none, output, large] {
        for pass in ["none", "clean"] {
            let student = common::run(&decode(file.clone()), &format!(r#"[{{ pass = "{pass}" }}]"#)).unwrap().student;
            assert!(bytes(&student).len() <= file.len(), "{pass}: {} became {}", file.len(), bytes(&student).len());
        }
    }
}

/// Each time it may say other things of itself, or nothing.
#[test]
fn a_value_may_be_listed_more_than_once() {
    for more in [vec![], proto::bytes(3, "the image again")] {
        let passed = proto::bytes(12, [proto::bytes(1, "x"), more].concat());
        let relu = proto::node("Relu", &["x"], &["y"]);
        let twice = proto::bytes(12, [proto::bytes(1, "y"), proto::bytes(3, "the same again")].concat());
        let outputs = [proto::output("y"), passed.clone(), twice, passed].concat();
        let model = proto::model(&[relu, proto::input("x"), outputs]);
        assert!(bytes(&decode(model.clone())) == model);
    }
}

#[test]
fn floats_may_come_one_by_one() {
    let model = |data: Vec<u8>| {
        let add = proto::node("Add", &["x", "w"], &["y"]);
        proto::model(&[add, proto::initializer("w", &[4], &[data]), proto::input("x"), proto::output("y")])
    };
    let values = [1f32, -2.0, 0.5, 7.0].map(f32::to_le_bytes);
    let field = |v: &[u8; 4]| Field { number: 4, content: Content::Fixed(v.to_vec()) };
    let singly = model(proto::encode(&values.iter().map(field).collect::<Vec<_>>()));
    let halves = model([proto::bytes(4, values[..2].concat()), proto::bytes(4, values[2..].concat())].concat());
    let raw = model(proto::bytes(9, values.concat()));
    for file in [singly, halves, model(proto::bytes(4, values.concat()))] {
        assert!(bytes(&decode(file)) == raw);
    }
}

#[test]
fn integers_stay_in_their_lists() {
    let values: Vec<i64> = (0..5000).map(|i| if i % 100 == 0 { -i } else { i % 300 }).collect();
    let model = |data: &[Vec<u8>]| {
        let gather = proto::node("Gather", &["x", "i"], &["y"]);
        let list = proto::typed_initializer("i", 7, &[5000], data);
        Bytes::from(proto::model(&[gather, list, proto::input("x"), proto::output("y")]))
    };
    let list = |values: &[i64]| values.iter().flat_map(|&v| proto::varint(v as u64)).collect::<Vec<_>>();
    let constant = |file: &Bytes| {
        let g = onnx::decode(file.clone(), None).unwrap().model.graph;
        g.value(g.find_value("i").unwrap()).constant().unwrap().clone()
    };
    let whole = model(&[proto::bytes(7, list(&values))]);
    let kept = constant(&whole);
    assert!(whole.as_ptr_range().contains(&kept.kept().unwrap().as_ptr()));
    assert_eq!(kept.stored_len(), list(&values).len());
    assert_eq!(kept.byte_len(), 8 * values.len());
    assert_eq!(kept.ints().unwrap(), values);

    let singly = model(&values.iter().map(|&v| proto::int(7, v)).collect::<Vec<_>>());
    let halves = model(&[proto::bytes(7, list(&values[..2000])), proto::bytes(7, list(&values[2000..]))]);
    // The first number, 0, in two bytes.
    let longer = model(&[proto::bytes(7, [vec![0x80], list(&values)].concat())]);
    let raw = model(&[proto::bytes(9, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())]);
    for file in [&singly, &halves, &longer, &raw] {
        assert_eq!(constant(file), kept);
    }
    for file in [singly, halves, longer] {
        assert!(bytes(&decode(file.to_vec())) == bytes(&decode(whole.to_vec())));
    }
    let cut_off = model(&[proto::bytes(7, [list(&values[1..]), vec![0x80]].concat())]);
    let too_many = model(&[proto::bytes(7, [vec![0], list(&values)].concat())]);
    for file in [cut_off, too_many] {
        assert!(onnx::decode(file, None).unwrap_err().to_string().contains("do not go with the data"));
    }
}

/// What an attribute says beside its type is carried, and means nothing to us.
#[test]
fn attributes_that_contradict_their_type_are_kept() {
    let float = proto::encode(&[Field { number: 2, content: Content::Fixed(1f32.to_le_bytes().to_vec()) }]);
    let attribute = proto::bytes(5, [proto::bytes(1, "axis"), float, proto::int(20, 2)].concat());
    let softmax =
        proto::bytes(1, [proto::bytes(1, "x"), proto::bytes(2, "y"), proto::bytes(4, "Softmax"), attribute].concat());
    let model = proto::model(&[softmax, proto::input("x"), proto::output("y")]);
    assert!(bytes(&decode(model.clone())) == model);
    let value = proto::bytes(5, [proto::bytes(1, "value_int"), proto::int(3, 3), proto::int(20, 1)].concat());
    let constant = proto::bytes(1, [proto::bytes(2, "y"), proto::bytes(4, "Constant"), value].concat());
    let model = proto::model(&[constant, proto::output("y")]);
    assert!(bytes(&decode(model.clone())) == model);
}

#[test]
fn external_data_comes_in_wherever_it_was() {
    let outside = load(&root().join("fixtures/onnx/external/model.onnx"));
    assert!(bytes(&outside) == std::fs::read(root().join("fixtures/onnx/external/inline.onnx")).unwrap());
}

#[test]
fn unknown_fields_are_reported_and_the_rest_is_kept() {
    let loaded = onnx::load(&root().join("fixtures/onnx/unknown_fields.onnx")).unwrap();
    assert_eq!(
        loaded.warnings,
        ["the file has fields that ONNX 1.23 does not define, which are dropped: ModelProto field 249 (once), \
          NodeProto field 249 (once), TensorProto field 250 (once)"]
    );
    for path in models() {
        let expected = path.ends_with("unknown_fields.onnx");
        let warned = onnx::load(&path).unwrap().warnings.iter().any(|w| w.contains("does not define"));
        assert_eq!(warned, expected, "{}", name(&path));
    }
}

#[test]
fn an_unknown_field_does_not_hide_behind_a_length() {
    // Four dims in one block are two bytes shorter than one by one, which is what the unknown field takes.
    let tensor = [proto::bytes(1, [1, 1, 1, 4]), proto::int(2, 1), proto::bytes(8, "w"), proto::bytes(9, [0; 16])];
    let tensor = proto::bytes(5, [tensor.concat(), proto::int(15, 1)].concat());
    let graph = [proto::input("x"), tensor, proto::node("Add", &["x", "w"], &["y"]), proto::output("y")];
    let file = proto::model(&graph);
    let loaded = onnx::decode(file.clone().into(), None).unwrap();
    assert_eq!(bytes(&loaded.model).len(), file.len());
    let expected = "the file has fields that ONNX 1.23 does not define, which are dropped: TensorProto field 15 (once)";
    assert!(loaded.warnings.iter().any(|w| w == expected), "{:?}", loaded.warnings);
}

#[test]
fn a_dim_without_a_name_gets_one_that_no_other_dim_has() {
    let dim = |name: &str| if name.is_empty() { proto::bytes(1, []) } else { proto::bytes(1, proto::bytes(2, name)) };
    let input = |name: &str, dims: &[&str]| {
        let shape = dims.iter().flat_map(|d| dim(d)).collect::<Vec<_>>();
        let tensor = [proto::int(1, 1), proto::bytes(2, shape)].concat();
        proto::bytes(11, [proto::bytes(1, name), proto::bytes(2, proto::bytes(1, tensor))].concat())
    };
    let inputs = [input("x", &["", ""]), input("z", &["x.0", "x.1"])];
    let graph = [&inputs[..], &[proto::node("Add", &["x", "z"], &["y"]), proto::output("y")]].concat();
    let g = onnx::decode(proto::model(&graph).into(), None).unwrap().model.graph;
    let shape = |name: &str| g.value(g.find_value(name).unwrap()).ty.as_ref().unwrap().shape().unwrap().clone();
    assert!(shape("x").0.iter().zip(&shape("z").0).all(|(a, b)| a != b), "{} {}", shape("x"), shape("z"));
}

#[test]
fn nodes_are_sorted() {
    let printed = text::print::model(&decode(bytes(&load(&root().join("fixtures/onnx/unsorted.onnx")))));
    assert!(printed.find("Relu") < printed.find("Add"), "{printed}");
}

#[test]
fn an_overridden_operator_is_not_the_one_of_that_name() {
    let g = load(&root().join("fixtures/onnx/functions.onnx")).graph;
    let relu = g.nodes().find(|&n| g.node(n).op_type == "Relu").unwrap();
    assert!(g.node(relu).op.operator().is_none());
}

/// IR 3: weights that are inputs too are constants. From IR 4 on they are defaults, and may have other dims than those.
#[test]
fn weights_among_the_inputs() {
    let constants = |file: &str| {
        let g = load(&root().join(file)).graph;
        let b = g.value(g.find_value("b").unwrap()).ty.clone().unwrap().to_string();
        (g.values().filter(|&v| g.value(v).constant().is_some()).count(), b)
    };
    assert_eq!(constants("fixtures/onnx/ir3_weights.onnx"), (2, "f32[4]".to_string()));
    assert_eq!(constants("fixtures/onnx/ir10_defaults.onnx"), (0, "f32[k]".to_string()));
}
