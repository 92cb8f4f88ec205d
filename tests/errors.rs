//! What a user is told who gives wrong input: one clear error, exit code 1, and nothing broken.
//!
//! `BLESS=1 cargo test --test errors` rewrites the messages in `errors.txt`.
#![cfg(all(unix, feature = "exec"))]

mod common;

use common::proto::*;
use std::fmt::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

const PREVIOUS: &[u8] = b"the student of yesterday";

/// A name, what it writes into its folder, and what follows `tutee`.
type Case = (&'static str, fn(&Path), &'static str);

const COMPRESS: &str = "compress teacher.onnx -o student.onnx -p none";

const CASES: &[Case] = &[
    // The model's file.
    ("a text file", |d| write(d, "teacher.onnx", "import torch\n"), COMPRESS),
    ("an empty file", |d| write(d, "teacher.onnx", ""), COMPRESS),
    ("a folder", |d| std::fs::create_dir(d.join("teacher.onnx")).unwrap(), COMPRESS),
    ("no such file", |_| {}, COMPRESS),
    ("a device", |_| {}, "compress /dev/zero -o student.onnx -p none"),
    ("half a model", |d| write(d, "teacher.onnx", &good()[..good().len() / 2]), COMPRESS),
    ("a model without a graph", |d| write(d, "teacher.onnx", int(1, 10)), COMPRESS),
    // Tensors.
    ("a negative dim", |d| weight(d, initializer("w", &[-4], &[])), COMPRESS),
    ("dims that overflow", |d| weight(d, initializer("w", &[i64::MAX, i64::MAX], &[bytes(9, [0; 16])])), COMPRESS),
    ("dims of a terabyte", |d| weight(d, initializer("w", &[1 << 38], &[bytes(9, [0; 16])])), COMPRESS),
    ("raw data of the wrong length", |d| weight(d, initializer("w", &[4], &[bytes(9, [0; 15])])), COMPRESS),
    (
        "raw data of the wrong length in a function",
        |d| {
            let tensor = [int(1, 4), int(2, 1), bytes(9, [0; 15])].concat();
            let value = [bytes(1, "value"), bytes(5, tensor), int(20, 4)].concat();
            let constant = [bytes(2, "c"), bytes(4, "Constant"), bytes(5, value)].concat();
            let function = [bytes(1, "F"), bytes(5, "c"), bytes(7, constant), bytes(10, "local")].concat();
            write(d, "teacher.onnx", [good(), bytes(25, function)].concat())
        },
        COMPRESS,
    ),
    ("typed data of the wrong length", |d| weight(d, initializer("w", &[4], &[bytes(4, [0; 12])])), COMPRESS),
    ("typed data of the wrong type", |d| weight(d, initializer("w", &[4], &[bytes(7, [0; 4])])), COMPRESS),
    ("too few strings", |d| weight(d, typed_initializer("w", 8, &[2], &[bytes(6, "a")])), COMPRESS),
    ("an unknown element type", |d| weight(d, typed_initializer("w", 99, &[4], &[bytes(9, [0; 16])])), COMPRESS),
    ("segments", |d| weight(d, initializer("w", &[4], &[bytes(3, int(1, 0)), bytes(9, [0; 16])])), COMPRESS),
    ("data in two fields", |d| weight(d, initializer("w", &[4], &[bytes(4, [0; 16]), bytes(9, [0; 16])])), COMPRESS),
    ("a long list that is cut off", |d| attribute(d, &[bytes(8, [0x80; 5000]), int(20, 7)]), COMPRESS),
    ("an attribute with a graph and a number", |d| attribute(d, &[int(3, 1), bytes(6, ""), int(20, 5)]), COMPRESS),
    // Graphs.
    (
        "a cycle",
        |d| graph(d, &[input("x"), node("Add", &["x", "b"], &["a"]), node("Relu", &["a"], &["b"]), output("b")]),
        COMPRESS,
    ),
    (
        "what hangs on a cycle is not to blame",
        |d| {
            graph(
                d,
                &[
                    node("Neg", &["b"], &["c"]),
                    node("Add", &["b", "b"], &["a"]),
                    node("Relu", &["a"], &["b"]),
                    output("c"),
                ],
            )
        },
        COMPRESS,
    ),
    (
        "two results of one name",
        |d| graph(d, &[input("x"), node("Relu", &["x"], &["y"]), node("Neg", &["x"], &["y"]), output("y")]),
        COMPRESS,
    ),
    (
        "two inputs of one name",
        |d| graph(d, &[input("x"), input("x"), node("Relu", &["x"], &["y"]), output("y")]),
        COMPRESS,
    ),
    ("an undefined value", |d| graph(d, &[input("x"), node("Add", &["x", "w"], &["y"]), output("y")]), COMPRESS),
    ("an undefined value in a body", |d| graph(d, &[input("c"), branch("x"), output("y")]), COMPRESS),
    ("an undefined output", |d| graph(d, &[input("x"), output("y")]), COMPRESS),
    // External data.
    ("a missing data file", |d| weight(d, external("w", &[4], &[("location", "w.bin")])), COMPRESS),
    ("an absolute data file", |d| weight(d, external("w", &[4], &[("location", "/etc/passwd")])), COMPRESS),
    ("a data file above the folder", |d| weight(d, external("w", &[4], &[("location", "../w.bin")])), COMPRESS),
    (
        "a data file behind a link",
        |d| {
            symlink("/etc/passwd", d.join("w.bin")).unwrap();
            weight(d, external("w", &[4], &[("location", "w.bin")]));
        },
        COMPRESS,
    ),
    (
        "a data file with another name",
        |d| {
            write(d, "other.bin", [0; 16]);
            std::fs::hard_link(d.join("other.bin"), d.join("w.bin")).unwrap();
            weight(d, external("w", &[4], &[("location", "w.bin")]));
        },
        COMPRESS,
    ),
    (
        "a data file that is a folder",
        |d| {
            std::fs::create_dir(d.join("w.bin")).unwrap();
            weight(d, external("w", &[4], &[("location", "w.bin")]));
        },
        COMPRESS,
    ),
    (
        "a data file that is a socket",
        |d| {
            std::os::unix::net::UnixListener::bind(d.join("w.bin")).unwrap();
            weight(d, external("w", &[4], &[("location", "w.bin")]));
        },
        COMPRESS,
    ),
    ("a data file that is too short", |d| data(d, &[4], &[("location", "w.bin"), ("offset", "8")]), COMPRESS),
    (
        "an offset beyond everything",
        |d| data(d, &[4], &[("location", "w.bin"), ("offset", "18446744073709551615")]),
        COMPRESS,
    ),
    ("another length than the dims say", |d| data(d, &[4], &[("location", "w.bin"), ("length", "12")]), COMPRESS),
    ("an offset that is no number", |d| data(d, &[4], &[("location", "w.bin"), ("offset", "-1")]), COMPRESS),
    ("external data without a place", |d| data(d, &[4], &[("offset", "0")]), COMPRESS),
    // Steps and recipes.
    ("an unknown pass", fine, "compress teacher.onnx -o student.onnx -p remove-unsued"),
    ("an option that the pass does not have", fine, "compress teacher.onnx -o student.onnx -p remove-unused:skipp=a"),
    ("an option without a value", fine, "compress teacher.onnx -o student.onnx -p remove-unused:skip"),
    ("an option of the wrong kind", fine, "compress teacher.onnx -o student.onnx -p remove-unused:skip-first=two"),
    ("an option of a step that has none", fine, "compress teacher.onnx -o student.onnx -p none:bits=4"),
    ("a glob that matches nothing", fine, "compress teacher.onnx -o student.onnx -p remove-unused:skip=relo"),
    ("a step after encoding", fine, "compress teacher.onnx -o student.onnx -p cluster-weights -p clean"),
    (
        "a step after encoding in a recipe",
        |d| recipe(d, "version = 1\n[[step]]\npass = \"cluster-weights\"\n\n[[step]]\npass = \"separate-convs\"\n"),
        RECIPE,
    ),
    ("training without data", fine, "compress teacher.onnx -o student.onnx -p distill"),
    ("an option that the stage does not have", fine, "compress teacher.onnx -o student.onnx -p distill:epoch=3"),
    ("two lengths of one training", fine, "compress teacher.onnx -o student.onnx -p distill:epochs=3,minutes=1"),
    ("a length of nothing", fine, "compress teacher.onnx -o student.onnx -p distill:epochs=0"),
    ("a temperature of nothing", fine, "compress teacher.onnx -o student.onnx -p distill:temperature=0"),
    ("a rate that is none", fine, "compress teacher.onnx -o student.onnx -p distill:learning-rate=-1"),
    ("an optimizer that does not exist", fine, "compress teacher.onnx -o student.onnx -p distill:optimizer=adam"),
    (
        "an augmentation that does not exist",
        |d| recipe(d, "version = 1\n[[step]]\nstage = \"distill\"\naugment = [\"flip\", \"turn\"]\n"),
        RECIPE,
    ),
    (
        "a teacher that is not there",
        |d| recipe(d, "version = 1\n[[step]]\nstage = \"distill\"\nteachers = [\"better.onnx\"]\n"),
        RECIPE,
    ),
    (
        "a step after encoding and training",
        fine,
        "compress teacher.onnx -o student.onnx -p cluster-weights -p distill -p clean",
    ),
    ("a number out of range", fine, "compress teacher.onnx -o student.onnx -p cluster-weights:bits=9"),
    ("a number that is text", fine, "compress teacher.onnx -o student.onnx -p cluster-weights:bits=four"),
    ("no such recipe", fine, RECIPE),
    ("a recipe that is not TOML", |d| recipe(d, "version = 1\n[[step\n"), RECIPE),
    ("a recipe without a version", |d| recipe(d, "[[step]]\npass = \"clean\"\n"), RECIPE),
    ("a recipe from the future", |d| recipe(d, "version = 2\n"), RECIPE),
    ("a recipe without an end", fine, "compress teacher.onnx -o student.onnx -r /dev/zero"),
    ("a scale of zero", |d| recipe(d, "version = 1\n\n[data]\nscale = 0\n"), RECIPE),
    ("an unknown key", |d| recipe(d, "version = 1\n[[steps]]\npass = \"clean\"\n"), RECIPE),
    ("an unknown key of a section", |d| recipe(d, "version = 1\n\n[target]\nmax-drops = 0.01\n"), RECIPE),
    ("a value out of range", |d| recipe(d, "version = 1\n\n[target]\nmax-drop = 3\n"), RECIPE),
    ("a section that is a number", |d| recipe(d, "version = 1\ntarget = 3\n"), RECIPE),
    ("a step without a pass", |d| recipe(d, "version = 1\n[[step]]\nskip = [\"a\"]\n"), RECIPE),
    ("an unknown pass in a recipe", |d| recipe(d, "version = 1\n\n[[step]]\npass = \"cleaning\"\n"), RECIPE),
    (
        "a wrong option in a recipe",
        |d| recipe(d, "version = 1\n\n[[step]]\npass = \"remove-unused\"\nskip-last = -1\n"),
        RECIPE,
    ),
    // Outputs.
    (
        "an output that is a folder",
        |d| {
            fine(d);
            std::fs::create_dir(d.join("out")).unwrap();
        },
        "compress teacher.onnx -o out -p none",
    ),
    ("an output in no folder", fine, "compress teacher.onnx -o out/student.onnx -p none"),
    ("an output that is a device", fine, "compress teacher.onnx -o /dev/null -p none"),
    ("an output below a device", fine, "compress teacher.onnx -o /dev/null/student.onnx -p none"),
    ("external data on standard output", fine, "compress teacher.onnx -o - -p none --external-data"),
    ("a report of unknown form", fine, "compress teacher.onnx -o student.onnx -p none --report report.txt"),
    ("a report in no folder", fine, "compress teacher.onnx -o student.onnx -p none --report out/report.json"),
    ("a make rule over the teacher", fine, "compress teacher.onnx -o student.onnx -p none --depfile ./teacher.onnx"),
    ("a report over the student", fine, "compress teacher.onnx -o s.json -p none --report s.json"),
    ("two reports in one place", fine, "compress teacher.onnx -o s.onnx -p none --report r.md --report r.md"),
    (
        "a make rule over the student's data",
        fine,
        "compress teacher.onnx -o s.onnx -p none --external-data --depfile s.onnx.0123456789abcdef.data",
    ),
    ("a student over its teacher", fine, "compress teacher.onnx -o ./teacher.onnx -p none"),
    (
        "a student over its teacher by a link",
        |d| {
            fine(d);
            symlink("teacher.onnx", d.join("link.onnx")).unwrap();
        },
        "compress teacher.onnx -o link.onnx -p none",
    ),
    (
        "a student over its teacher by another name",
        |d| {
            fine(d);
            std::fs::hard_link(d.join("teacher.onnx"), d.join("hard.onnx")).unwrap();
        },
        "compress teacher.onnx -o hard.onnx -p none",
    ),
    (
        "a student over its teacher's data",
        |d| data(d, &[4], &[("location", "w.bin")]),
        "compress teacher.onnx -o w.bin -p none --in-place",
    ),
    (
        "a report over the data by another name",
        |d| {
            arrays(d, &[X]);
            std::fs::hard_link(d.join("data.npz"), d.join("report.json")).unwrap();
        },
        "compress teacher.onnx -o made.onnx -p none --test data.npz --report report.json",
    ),
    (
        "two links to one report",
        |d| {
            fine(d);
            symlink("r.md", d.join("other.md")).unwrap();
            write(d, "r.md", "");
        },
        "compress teacher.onnx -o made.onnx -p none --report r.md --report other.md",
    ),
    (
        "an output that is a pipe",
        |d| {
            fine(d);
            assert!(Command::new("mkfifo").arg(d.join("pipe")).status().unwrap().success());
        },
        "compress teacher.onnx -o pipe -p none",
    ),
    (
        "a student over its recipe",
        |d| recipe(d, "version = 1\n"),
        "compress teacher.onnx -o recipe.toml -r recipe.toml",
    ),
    ("a student over the test data", |d| arrays(d, &[X]), "compress teacher.onnx -o data.npz -p none --test data.npz"),
    (
        "a student over the calibration data",
        |d| arrays(d, &[X]),
        "compress teacher.onnx -o data.npz -p none --calib data.npz",
    ),
    ("a make rule without a name", fine, "compress teacher.onnx -o - -p none --depfile student.d"),
    // Arguments.
    ("a rank of nothing", fine, "compress teacher.onnx -o student.onnx -p separate-convs:rank=0"),
    ("a ratio of nothing", fine, "compress teacher.onnx -o student.onnx -p factorize-linear:ratio=0"),
    ("no threads", fine, "compress teacher.onnx -o student.onnx -p none --threads 0"),
    ("no output", fine, "compress teacher.onnx"),
    ("a flag that does not exist", fine, "compress teacher.onnx -o student.onnx --fast"),
    ("a number that is none", fine, "compress teacher.onnx -o student.onnx --stop-after all"),
    ("a step that is none", fine, "compress teacher.onnx -o student.onnx --stop-after 99"),
    ("recipe and steps at once", fine, "compress teacher.onnx -o student.onnx -p none -r recipe.toml"),
    ("a command that does not exist", fine, "squash teacher.onnx"),
    ("a bad model to show", |d| write(d, "teacher.onnx", "x"), "show teacher.onnx"),
    ("an unknown pass to explain", fine, "explain remove-unsued"),
    // Data to check on.
    ("no such data", |d| classifier(d), CHECK),
    ("data that is no data", |d| with(d, "a,b\n1,2\n"), CHECK),
    ("data of the wrong rank", |d| arrays(d, &[("x", "<f4", "(2, 48)", 384)]), CHECK),
    ("data with the channels last", |d| arrays(d, &[("x", "<f4", "(2, 4, 4, 3)", 384)]), CHECK),
    ("data with too few channels", |d| arrays(d, &[("x", "<f4", "(2, 1, 4, 4)", 128)]), CHECK),
    ("data of another size", |d| arrays(d, &[("x", "<f4", "(2, 3, 5, 4)", 480)]), CHECK),
    ("one sample without a batch axis", |d| arrays(d, &[("x", "<f4", "(3, 4, 4)", 192)]), CHECK),
    ("data without x", |d| arrays(d, &[("images", "<f4", "(2, 3, 4, 4)", 384), ("y", "<i8", "(2,)", 16)]), CHECK),
    ("an archive without arrays", |d| arrays(d, &[]), CHECK),
    ("no samples", |d| arrays(d, &[("x", "<f4", "(0, 3, 4, 4)", 0)]), CHECK),
    ("samples that are strings", |d| arrays(d, &[("x", "<U5", "(2, 3, 4, 4)", 1920)]), CHECK),
    ("samples that are objects", |d| arrays(d, &[("x", "|O", "(2,)", 16)]), CHECK),
    ("too few labels", |d| arrays(d, &[X, ("y", "<i8", "(1,)", 8)]), CHECK),
    ("labels that are scores", |d| arrays(d, &[X, ("y", "<f4", "(2, 5)", 40)]), CHECK),
    ("labels that are strings", |d| arrays(d, &[X, ("y", "<U5", "(2,)", 40)]), CHECK),
    ("a label that is no class", |d| labelled(d, 5), CHECK),
    ("a label below 0", |d| labelled(d, -1), CHECK),
    ("an input without data", |d| two_inputs(d, &[("a", "<f4", "(2, 3)", 24)]), CHECK),
    (
        "inputs of different lengths",
        |d| two_inputs(d, &[("a", "<f4", "(2, 3)", 24), ("ids", "<i8", "(1, 3)", 24)]),
        CHECK,
    ),
    (
        "a fraction for a whole number",
        |d| two_inputs(d, &[("a", "<f4", "(1, 3)", 12), ("ids", "<f4", "(1, 3)", 12)]),
        CHECK,
    ),
    ("an archive that is cut off", |d| with(d, &archive(&[X])[..300]), CHECK),
    (
        "an archive that is damaged",
        |d| {
            let mut damaged = archive(&[X]);
            damaged[300] ^= 1;
            with(d, damaged);
        },
        CHECK,
    ),
    ("an array that is cut off", |d| with(d, &npy("<f4", "(2, 3, 4, 4)", 384)[..300]), CHECK),
    ("an array of a petabyte", |d| arrays(d, &[("x", "<f4", "(1000000000000, 3, 4, 4)", 384)]), CHECK),
    ("a picture that is none", |d| pictures(d, &[("cat/1.png", Some((4, 4))), ("dog/2.png", None)]), PICTURES),
    (
        "pictures of different sizes",
        |d| pictures(d, &[("cat/1.png", Some((4, 4))), ("dog/2.png", Some((5, 4)))]),
        PICTURES,
    ),
    ("pictures of another size", |d| pictures(d, &[("1.png", Some((5, 4)))]), PICTURES),
    (
        "two pictures in colour among grey ones",
        |d| {
            pictures(d, &[("1.png", Some((4, 4))), ("2.png", Some((4, 4)))]);
            grey(d, &["3.png", "4.png", "5.png"]);
            let one = CLASSIFIER.replace("N,3,4,4", "N,1,4,4").replace("48", "16");
            write(d, "teacher.onnx", tutee::onnx::to_bytes(&tutee::ir::text::parse::model(&one).unwrap()).unwrap());
        },
        PICTURES,
    ),
    (
        "a class that is not in the list",
        |d| {
            pictures(d, &[("cat/1.png", Some((4, 4)))]);
            write(d, "classes.txt", "dog\nbird\n");
        },
        "check teacher.onnx teacher.onnx --data pictures --classes classes.txt",
    ),
    ("a size that is none", |d| arrays(d, &[X]), "check teacher.onnx teacher.onnx --data data.npz --resize 4"),
    ("a folder without pictures", |d| pictures(d, &[("cat/notes.txt", None)]), PICTURES),
    (
        "files of a folder that hold other arrays",
        |d| parts(d, &[("a.npz", &[X]), ("b.npz", &[("z", X.1, X.2, X.3)])]),
        "check teacher.onnx teacher.onnx --data parts",
    ),
    (
        "files of a folder whose samples differ in shape",
        |d| parts(d, &[("a.npz", &[X]), ("b.npz", &[("x", "<f4", "(1, 3, 4, 5)", 240)])]),
        "check teacher.onnx teacher.onnx --data parts",
    ),
    (
        "training data of two shapes",
        |d| {
            parts(d, &[("a.npz", &[X]), ("b.npz", &[("x", "<f4", "(1, 3, 6, 6)", 432)])]);
            open_sides(d);
        },
        "distill teacher.onnx --teacher teacher.onnx -o student.onnx --train parts",
    ),
    (
        "a mean of another number of channels",
        |d| arrays(d, &[X]),
        "check teacher.onnx teacher.onnx --data data.npz --mean 0.5,0.5",
    ),
    ("a feedback of no output", |d| arrays(d, &[X]), "check teacher.onnx teacher.onnx --data data.npz --feedback x"),
    (
        "a feedback to no input",
        |d| arrays(d, &[X]),
        "check teacher.onnx teacher.onnx --data data.npz --feedback state=y",
    ),
    (
        "streams of nothing that is fed back",
        |d| arrays(d, &[X]),
        "check teacher.onnx teacher.onnx --data data.npz --stream-length 4",
    ),
    ("a scale that is no number", |d| arrays(d, &[X]), "check teacher.onnx teacher.onnx --data data.npz --scale 1:255"),
    ("a std of nothing", |d| arrays(d, &[X]), "check teacher.onnx teacher.onnx --data data.npz --std 0"),
    (
        "a student with another interface",
        |d| {
            arrays(d, &[X]);
            write(d, "other.onnx", good());
        },
        "check teacher.onnx other.onnx --data data.npz",
    ),
    ("a student that is no model", |d| arrays(d, &[X]), "check teacher.onnx data.npz --data data.npz"),
    (
        "test data that does not fit",
        |d| arrays(d, &[("x", "<f4", "(2, 1, 4, 4)", 128)]),
        "compress teacher.onnx -o student.onnx -p none --test data.npz",
    ),
    ("a target without data", |d| classifier(d), "compress teacher.onnx -o student.onnx -p none --max-drop 1%"),
    // Data to fit to.
    ("no such calibration data", |d| classifier(d), CALIBRATE),
    ("calibration data of another shape", |d| arrays(d, &[("x", "<f4", "(20, 3, 5, 4)", 4800)]), CALIBRATE),
    ("calibration data that is strings", |d| arrays(d, &[("x", "<U5", "(20, 3, 4, 4)", 19200)]), CALIBRATE),
    ("calibration data of another name", |d| arrays(d, &[("images", "<f4", "(20, 3, 4, 4)", 3840)]), CALIBRATE),
    ("an input without calibration data", |d| two_inputs(d, &[("a", "<f4", "(20, 3)", 240)]), CALIBRATE),
    ("calibration data that is not finite", |d| with(d, zipped(&[("x", not_finite())])), CALIBRATE),
    ("hardly any calibration data", |d| arrays(d, &[X]), CALIBRATE),
    (
        "no calibration samples",
        |d| arrays(d, &[X]),
        "compress teacher.onnx -o student.onnx -p clean --calib data.npz --calib-samples 0",
    ),
    // Exits.
    ("exits without data", fine, "compress teacher.onnx -o student.onnx -p early-exit"),
    (
        "exits here and there",
        |d| many(d),
        "compress teacher.onnx -o student.onnx -p early-exit:exits=2,after=a --calib data.npz",
    ),
    (
        "a threshold and a drop",
        |d| many(d),
        "compress teacher.onnx -o student.onnx -p early-exit:threshold=0.9,max-drop=0 --calib data.npz",
    ),
    (
        "an exit after nothing",
        |d| many(d),
        "compress teacher.onnx -o student.onnx -p early-exit:after=nowhere --calib data.npz",
    ),
    (
        "exits that judge by nothing",
        |d| many(d),
        "compress teacher.onnx -o student.onnx -p early-exit:hold-back=0 --calib data.npz",
    ),
    ("stages of a network without exits", fine, "compress teacher.onnx -o student.onnx -p clean --stages"),
    ("which exit of none", fine, "compress teacher.onnx -o student.onnx -p clean --exit-output which"),
    ("a cascade of one", |d| many(d), "compress teacher.onnx -o student.onnx -p cascade --calib data.npz"),
    ("a cascade without data", |d| classifier(d), "cascade teacher.onnx teacher.onnx -o student.onnx"),
    (
        "a small network that is not there",
        |d| many(d),
        "cascade small.onnx teacher.onnx -o student.onnx --calib data.npz",
    ),
    (
        "stages that are none",
        |d| {
            arrays(d, &[X]);
            write(d, "student.stages.json", "{ \"version\": 1 }");
        },
        "check teacher.onnx student.stages.json --data data.npz",
    ),
    (
        "a stage that lies elsewhere",
        |d| {
            arrays(d, &[X]);
            let stage = "{ \"file\": \"../a.onnx\", \"inputs\": [\"x\"], \"answer\": \"y\" }";
            write(
                d,
                "student.stages.json",
                format!("{{ \"version\": 1, \"inputs\": [\"x\"], \"output\": \"y\", \"stages\": [{stage}] }}"),
            );
        },
        "check teacher.onnx student.stages.json --data data.npz",
    ),
    // Sizes of inputs.
    ("a shape for no input", fine, "show teacher.onnx --input-shape image=1x3x4x4"),
    ("a shape of too few dims", fine, "show teacher.onnx --input-shape x=1x3"),
    ("a shape of another size", fine, "compress teacher.onnx -o student.onnx -p clean --input-shape x=1x4x5x5"),
    // Options of prune-channels.
    ("a width of nothing", fine, "compress teacher.onnx -o student.onnx -p prune-channels:width-mult=0"),
    ("a width above all", fine, "compress teacher.onnx -o student.onnx -p prune-channels:width-mult=1.5"),
    ("a width and a target", fine, "compress teacher.onnx -o student.onnx -p prune-channels:width-mult=0.5,macs=0.5"),
    ("two targets", fine, "compress teacher.onnx -o student.onnx -p prune-channels:params=0.5,macs=50%"),
    ("an importance that needs data", fine, "compress teacher.onnx -o student.onnx -p prune-channels:importance=schur"),
    ("rounding to nothing", fine, "compress teacher.onnx -o student.onnx -p prune-channels:round-to=0"),
    (
        "a width for no node",
        |d| recipe(d, "version = 1\n[[step]]\npass = \"prune-channels\"\nwidth = { \"ad*\" = 0.5, \"reluu\" = 0.5 }"),
        RECIPE,
    ),
];

const CHECK: &str = "check teacher.onnx teacher.onnx --data data.npz";
const CALIBRATE: &str = "compress teacher.onnx -o student.onnx -p factorize-linear:min-weights=0 --calib data.npz";
const PICTURES: &str = "check teacher.onnx teacher.onnx --data pictures";

/// Name, type and shape of an array as NumPy writes them, and its bytes, all of them 0x3e: as floats, fractions.
type Entry = (&'static str, &'static str, &'static str, usize);

const X: Entry = ("x", "<f4", "(2, 3, 4, 4)", 384);

/// A model of pictures with 3 channels of 4 by 4, and 5 classes.
const CLASSIFIER: &str = r#"model "classifier" opset 17 {
  input %image : f32[N,3,4,4]
  const %w : f32[48,5] = seed(1)

  %flat : f32[N,48] = Flatten(%image)
  %logits : f32[N,5] = MatMul(%flat, %w)

  output %logits
}"#;

fn classifier(folder: &Path) {
    let model = tutee::ir::text::parse::model(CLASSIFIER).unwrap();
    write(folder, "teacher.onnx", tutee::onnx::to_bytes(&model).unwrap());
}

/// The classifier, and a file of data.
fn with(folder: &Path, data: impl AsRef<[u8]>) {
    classifier(folder);
    write(folder, "data.npz", data);
}

fn arrays(folder: &Path, entries: &[Entry]) {
    with(folder, archive(entries));
}

/// Enough samples to fit to.
fn many(folder: &Path) {
    arrays(folder, &[("x", "<f4", "(20, 3, 4, 4)", 3840)]);
}

fn two_inputs(folder: &Path, entries: &[Entry]) {
    let model = common::root().join("fixtures/small/two_inputs.onnx");
    write(folder, "teacher.onnx", std::fs::read(model).unwrap());
    write(folder, "data.npz", archive(entries));
}

fn labelled(folder: &Path, label: i64) {
    let mut y = npy("<i8", "(2,)", 0);
    y.extend([0i64, label].map(i64::to_le_bytes).as_flattened());
    with(folder, zipped(&[("x", npy(X.1, X.2, X.3)), ("y", y)]));
}

/// Pictures of a size, or no picture.
fn pictures(folder: &Path, files: &[(&str, Option<(u32, u32)>)]) {
    classifier(folder);
    for (name, size) in files {
        let path = folder.join("pictures").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match size {
            Some((width, height)) => image::RgbImage::new(*width, *height).save(path).unwrap(),
            None => std::fs::write(path, "no picture").unwrap(),
        }
    }
}

/// A teacher, and a folder of files of arrays.
fn parts(folder: &Path, files: &[(&str, &[Entry])]) {
    classifier(folder);
    std::fs::create_dir(folder.join("parts")).unwrap();
    files.iter().for_each(|(name, entries)| write(folder, &format!("parts/{name}"), archive(entries)));
}

/// A teacher that takes pictures of any size.
fn open_sides(folder: &Path) {
    let text = "model \"open\" opset 17 {
        input %image : f32[N,3,H,W] const %w : f32[4,3,3,3] = seed(1)
        %a : ? = Conv(%image, %w)
        %b : ? = GlobalAveragePool(%a)
        %y : ? = Flatten(%b)
        output %y
    }";
    write(folder, "teacher.onnx", tutee::onnx::to_bytes(&tutee::ir::text::parse::model(text).unwrap()).unwrap());
}

fn grey(folder: &Path, names: &[&str]) {
    names.iter().for_each(|name| image::GrayImage::new(4, 4).save(folder.join("pictures").join(name)).unwrap());
}

fn npy(dtype: &str, shape: &str, bytes: usize) -> Vec<u8> {
    let header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes(), &vec![0x3e; bytes]].concat()
}

/// Samples of which the last number is not a number.
fn not_finite() -> Vec<u8> {
    let mut x = npy("<f4", "(20, 3, 4, 4)", 3840);
    let last = x.len() - 4;
    x[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    x
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    zipped(&entries.iter().map(|&(name, dtype, shape, bytes)| (name, npy(dtype, shape, bytes))).collect::<Vec<_>>())
}

fn zipped(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, array) in arrays {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(format!("{name}.npy"), options).unwrap();
        std::io::Write::write_all(&mut zip, array).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

const RECIPE: &str = "compress teacher.onnx -o student.onnx -r recipe.toml";

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), content).unwrap();
}

fn graph(folder: &Path, fields: &[Vec<u8>]) {
    write(folder, "teacher.onnx", model(fields));
}

/// A model whose node has an attribute with these fields.
fn attribute(folder: &Path, fields: &[Vec<u8>]) {
    let attribute = [bytes(1, "a"), fields.concat()].concat();
    let node = [bytes(1, "x"), bytes(2, "y"), bytes(4, "Foo"), bytes(5, attribute)].concat();
    graph(folder, &[input("x"), bytes(1, node), output("y")]);
}

/// A model with an initializer `w`.
fn weight(folder: &Path, initializer: Vec<u8>) {
    graph(folder, &[input("x"), initializer, node("Add", &["x", "w"], &["y"]), output("y")]);
}

/// A model whose initializer refers to a file of 16 bytes.
fn data(folder: &Path, dims: &[i64], entries: &[(&str, &str)]) {
    write(folder, "w.bin", [0; 16]);
    weight(folder, external("w", dims, entries));
}

fn good() -> Vec<u8> {
    let w = initializer("w", &[4], &[bytes(9, [0; 16])]);
    model(&[input("x"), w, node("Add", &["x", "w"], &["h"]), node("Relu", &["h"], &["y"]), output("y")])
}

fn fine(folder: &Path) {
    write(folder, "teacher.onnx", good());
}

fn recipe(folder: &Path, text: &str) {
    fine(folder);
    write(folder, "recipe.toml", text);
}

/// An `If` on `c` whose branch reads a value from around it.
fn branch(captured: &str) -> Vec<u8> {
    let body = [node("Neg", &[captured], &["z"]), bytes(2, "body"), output("z")].concat();
    let attribute = |name: &str| bytes(5, [bytes(1, name), bytes(6, &body), int(20, 5)].concat());
    let fields = [bytes(1, "c"), bytes(2, "y"), bytes(3, "choice"), bytes(4, "If")].concat();
    bytes(1, [fields, attribute("then_branch"), attribute("else_branch")].concat())
}

fn listing(folder: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn every_mistake_gets_one_clear_error() {
    let mut got = String::new();
    for (name, prepare, arguments) in CASES {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "student.onnx", PREVIOUS);
        prepare(folder.path());
        let before = listing(folder.path());
        let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
        command.args(arguments.split_whitespace()).current_dir(&folder).env("NO_COLOR", "1").env("COLUMNS", "100");
        let run = command.output().unwrap();
        let message = String::from_utf8(run.stderr).unwrap();

        let _ = writeln!(got, "## {name}\n$ tutee {arguments}\n{message}");
        assert_eq!(run.status.code(), Some(1), "{name}: {message}");
        assert!(run.stdout.is_empty(), "{name}: something on standard output");
        let errors = message.lines().filter(|l| l.starts_with("error")).count();
        assert_eq!(errors, 1, "{name}: {message}");
        assert!(!message.contains(&*folder.path().to_string_lossy()), "{name}: {message}");
        assert!(std::fs::read(folder.path().join("student.onnx")).unwrap() == PREVIOUS, "{name}: the output is lost");
        assert_eq!(listing(folder.path()), before, "{name}: files were left behind");
    }
    let golden = common::root().join("tests/errors.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &got).unwrap();
    }
    let want = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(want == got, "BLESS=1 accepts:\n{}", common::difference(&want, &got));
}

#[test]
fn no_arguments_print_the_help_and_are_an_error() {
    let run = Command::new(env!("CARGO_BIN_EXE_tutee")).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8(run.stderr).unwrap().contains("Usage: tutee"));
}

#[test]
fn nobody_listening_is_no_reason_to_fail() {
    let folder = tempfile::tempdir().unwrap();
    fine(folder.path());
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else { return };
    for (arguments, code) in [("compress teacher.onnx -o made.onnx -p none", 0), ("show nothing.onnx", 1)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
        command.args(arguments.split_whitespace()).current_dir(&folder).stderr(full.try_clone().unwrap());
        assert_eq!(command.status().unwrap().code(), Some(code), "{arguments}");
    }
    assert!(folder.path().join("made.onnx").is_file());
}

/// A folder without write permission: nothing for the golden file, since root may write everywhere.
#[test]
fn a_folder_that_cannot_be_written_to() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    fine(folder.path());
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o555)).unwrap();
    let privileged = std::fs::write(closed.join("probe"), "").is_ok();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
    command.args("compress teacher.onnx -o closed/student.onnx -p none".split(' ')).current_dir(&folder);
    let run = command.output().unwrap();
    let message = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(if privileged { 0 } else { 1 }), "{message}");
    assert!(privileged || message.contains("cannot write closed/student.onnx"), "{message}");
}

/// Names of nodes, values, operators and files are shown, never obeyed: no control character and no mark of direction
/// reaches the terminal or the report, and no name ends the line or the cell it stands in.
#[test]
fn names_do_nothing_to_a_terminal() {
    const NASTY: &str = "\u{1b}[2J\u{9b}31m\u{202e}\r\nerror: |`x";
    let named = |name: &str| format!("{name}{NASTY}");
    let [x, w, a, b, c, y] = ["x", "w", "a", "b", "c", "y"].map(named);
    let weight = initializer(&w, &[4, 4], &[bytes(9, [1; 64])]);
    let nodes = [
        node("MatMul", &[&x, &w], &[&a]),
        node(&named("Mystery"), &[&a], &[&b]),
        node("Identity", &[&b], &[&c]),
        node("Relu", &[&c], &[&y]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = format!("t{NASTY}.onnx").replace('|', "");
    let graph = [&[input(&x), weight][..], &nodes, &[output(&y), bytes(2, NASTY)]].concat();
    write(folder.path(), &file, [model(&graph), bytes(2, NASTY)].concat());
    let whole = ["-o", "student.onnx", "--report", "report.md", "-p", "clean", "-p", "cluster-weights:min-weights=1"];
    let cases: &[(&str, &[&str])] = &[
        ("show", &[]),
        ("show", &["--json"]),
        ("show", &["--channels"]),
        ("compress", &whole),
        ("compress", &["-o", "student.onnx", "-p", "prune-weights:only=matmu"]),
        ("compress", &["-o", "student.onnx", "-p", NASTY]),
        ("compress", &["-o", &named("no/such/folder"), "-p", "none"]),
        ("compress", &["--\u{1b}[2J\u{9b}31m\u{202e}"]),
        ("check", &["student.onnx", "--data", NASTY]),
    ];
    let harmless = |what: &str, text: &[u8]| {
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(tutee::plain::lines(&text) == text, "{what}: {text:?}");
        assert!(!text.contains("\nerror: |"), "{what}: {text:?}");
        text
    };
    for (command, arguments) in cases {
        let mut run = Command::new(env!("CARGO_BIN_EXE_tutee"));
        let run = run.arg(command).arg(&file).args(*arguments).current_dir(&folder).output().unwrap();
        let what = format!("{command} {arguments:?}");
        let printed = harmless(&what, &run.stdout);
        harmless(&what, &run.stderr);
        if arguments.contains(&"--json") {
            let json: serde_json::Value = serde_json::from_str(&printed).unwrap();
            assert_eq!(json["layers"][0]["name"], "matmul");
        }
    }
    let report = harmless("report.md", &std::fs::read(folder.path().join("report.md")).unwrap());
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    let rows =
        report.lines().filter(|l| l.starts_with("| clean") || l.starts_with("| cluster") || l.starts_with("| remove"));
    assert!(rows.map(cells).all(|n| n == 7), "{report}");
}
