"""tutee beside other tools, whole processes in turn: CPU seconds, peak memory and what came out.

usage: python benches/compare.py TUTEE [clean|kmeans|svd|check|start|calibrate ...]

TUTEE is a release binary (cargo build --release). Needs numpy and onnx; each rival is left out where it is not installed:
onnxslim, onnxsim, scikit-learn, onnxruntime. Models are made here, with seeded weights. All are run in turn, and ratios are those
of the medians, so that it holds where the machine's speed drifts. Training steps are compared by step.rs and step.py beside this.
"""

import importlib.util
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

RUNS = 3


def apart(function, *arguments):
    """Does something in a process of its own: this one stays small, as a process begins with the peak of the one that starts it."""
    process = multiprocessing.get_context("fork").Process(target=within, args=(function, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{function.__name__} failed")


def within(function, *arguments):
    global np, onnx, TensorProto, helper, numpy_helper
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    function(*arguments)


def conv_net(path, stages, first, classes, size, bottleneck):
    """A residual network of convolutions with BatchNormalization; `stages` are (blocks, channels)."""
    random = np.random.default_rng(0)
    nodes, constants = [], []

    def constant(name, shape, scale):
        array = (random.standard_normal(shape) * scale).astype(np.float32)
        constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(x, cin, cout, kernel, stride, relu, name):
        w = constant(f"{name}.weight", (cout, cin, kernel, kernel), (2 / (cin * kernel * kernel)) ** 0.5)
        pad = kernel // 2
        nodes.append(helper.make_node("Conv", [x, w], [f"{name}.y"], name=name, kernel_shape=[kernel] * 2,
                                      strides=[stride] * 2, pads=[pad] * 4))
        ones = numpy_helper.from_array(np.ones(cout, np.float32), f"{name}.scale")
        constants.extend([ones, numpy_helper.from_array(np.full(cout, 0.5, np.float32), f"{name}.var")])
        shift, mean = constant(f"{name}.bias", (cout,), 0.1), constant(f"{name}.mean", (cout,), 0.1)
        nodes.append(helper.make_node("BatchNormalization", [f"{name}.y", f"{name}.scale", shift, mean, f"{name}.var"],
                                      [f"{name}.n"], name=f"{name}.norm"))
        if not relu:
            return f"{name}.n"
        nodes.append(helper.make_node("Relu", [f"{name}.n"], [f"{name}.a"], name=f"{name}.relu"))
        return f"{name}.a"

    x, channels = conv("x", 3, first, 7, 2, True, "stem"), first
    nodes.append(helper.make_node("MaxPool", [x], ["pooled"], name="pool", kernel_shape=[3, 3], strides=[2, 2],
                                  pads=[1] * 4))
    x = "pooled"
    for s, (blocks, inner) in enumerate(stages):
        for b in range(blocks):
            name, stride, outer = f"s{s}.b{b}", 2 if b == 0 and s > 0 else 1, inner * bottleneck
            y = conv(x, channels, inner, 1, 1, True, f"{name}.c1")
            y = conv(y, inner, inner, 3, stride, True, f"{name}.c2")
            y = conv(y, inner, outer, 1, 1, False, f"{name}.c3")
            short = x if b else conv(x, channels, outer, 1, stride, False, f"{name}.down")
            nodes.append(helper.make_node("Add", [y, short], [f"{name}.sum"], name=f"{name}.add"))
            nodes.append(helper.make_node("Relu", [f"{name}.sum"], [f"{name}.out"], name=f"{name}.out"))
            x, channels = f"{name}.out", outer
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"], name="mean"))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"], name="flat"))
    w, b = constant("fc.weight", (classes, channels), 0.02), constant("fc.bias", (classes,), 0.02)
    nodes.append(helper.make_node("Gemm", ["flat", w, b], ["y"], name="fc", transB=1))
    save(path, nodes, constants, ("x", ["N", 3, size, size]), ("y", ["N", classes]))


def linear_net(path, sides):
    """MatMuls one after the other."""
    random = np.random.default_rng(0)
    nodes, constants, x = [], [], "x"
    for i, (a, b) in enumerate(zip(sides, sides[1:])):
        constants.append(numpy_helper.from_array((random.standard_normal((a, b)) / a**0.5).astype(np.float32), f"w{i}"))
        y = "y" if i + 2 == len(sides) else f"h{i}"
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [y], name=f"fc{i}"))
        x = y
    save(path, nodes, constants, ("x", ["N", sides[0]]), ("y", ["N", sides[-1]]))


def save(path, nodes, constants, x, y):
    value = lambda v: helper.make_tensor_value_info(v[0], TensorProto.FLOAT, v[1])
    graph = helper.make_graph(nodes, "net", [value(x)], [value(y)], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def noise(path, shape):
    np.save(path, np.random.default_rng(1).standard_normal(shape).astype(np.float32))


def squared_error(before, after):
    before, after = (numpy_helper.to_array(onnx.load(p).graph.initializer[0]).astype(np.float64) for p in (before, after))
    print(f"  SSE of tutee {((before - after) ** 2).sum():.2f}", flush=True)


def run(command):
    """CPU seconds and peak megabytes of a process."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.stdout.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 2):
        sys.exit(f"{' '.join(command)}\n{said}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3, said


def versus(title, ours, rivals):
    """Runs all in turn and prints a line each; rivals are (name, command)."""
    names = [("tutee", ours)] + rivals
    figures = {name: [] for name, _ in names}
    said = {}
    for _ in range(RUNS):
        for name, command in names:
            cpu, peak, said[name] = run(command)
            figures[name].append((cpu, peak))
    median = {name: [statistics.median(f[i] for f in all) for i in (0, 1)] for name, all in figures.items()}
    print(title)
    for name, (cpu, peak) in median.items():
        times = "" if name == "tutee" else f"  {cpu / max(median['tutee'][0], 1e-3):6.1f} times tutee's"
        print(f"  {name:14} {cpu:8.2f} s CPU {peak:8.0f} MB{times}")
    return said


def has(module):
    return importlib.util.find_spec(module) is not None


def python(code, *arguments):
    return [sys.executable, "-c", code, *arguments]


RESNET_50 = [[(3, 64), (4, 128), (6, 256), (3, 512)], 64, 1000, 224, 4]


def clean(tutee, folder):
    for title, make in [
        ("ResNet-50-sized, 102 MB", (conv_net, RESNET_50)),
        ("550 MB of MatMuls", (linear_net, [[4096] * 9 + [1000]])),
    ]:
        model, out = os.path.join(folder, "m.onnx"), os.path.join(folder, "out.onnx")
        apart(make[0], model, *make[1])
        rivals = [("onnx", python("import onnx,sys; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])", model, out))]
        if has("onnxslim"):
            rivals.append(("onnxslim", python("import onnxslim,sys; onnxslim.slim(sys.argv[1], sys.argv[2])", model, out)))
        if has("onnxsim"):
            simplify = "import onnx,onnxsim,sys; onnx.save(onnxsim.simplify(onnx.load(sys.argv[1]))[0], sys.argv[2])"
            rivals.append(("onnxsim", python(simplify, model, out)))
        versus(f"load, clean and save: {title}", [tutee, "compress", model, "-o", out, "-p", "clean", "-q"], rivals)


def kmeans(tutee, folder):
    model, out = os.path.join(folder, "m.onnx"), os.path.join(folder, "out.onnx")
    apart(linear_net, model, [1024, 1024])
    rival = """
import numpy as np, onnx, sys
from onnx import numpy_helper
from sklearn.cluster import KMeans
w = numpy_helper.to_array(onnx.load(sys.argv[1]).graph.initializer[0]).reshape(-1, 1)
print("SSE", KMeans(16, n_init=1, random_state=0).fit(w).inertia_)
"""
    step = "cluster-weights:bits=4,groups=1,encode=false"
    ours = [tutee, "compress", model, "-o", out, "-p", step, "-q"]
    said = versus("16 means of a million weights", ours, [("scikit-learn", python(rival, model))] if has("sklearn") else [])
    apart(squared_error, model, out)
    print(f"  scikit-learn: {said.get('scikit-learn', 'not installed').strip()}")


def svd(tutee, folder):
    model, out = os.path.join(folder, "m.onnx"), os.path.join(folder, "out.onnx")
    apart(linear_net, model, [2048, 2048])
    read = "import numpy as np, onnx, sys\nfrom onnx import numpy_helper\nw = numpy_helper.to_array(onnx.load(sys.argv[1]).graph.initializer[0])\n"
    rivals = [("numpy", python(read + "np.linalg.svd(w, full_matrices=False)", model))]
    if has("sklearn"):
        low = "from sklearn.utils.extmath import randomized_svd\nrandomized_svd(w, 512, random_state=0)"
        rivals.append(("scikit-learn", python(read + low, model)))
    ours = [tutee, "compress", model, "-o", out, "-p", "factorize-linear:rank=512", "-q"]
    versus("rank 512 of 2048 × 2048 (numpy: the whole decomposition)", ours, rivals)


def check(tutee, folder):
    model, data = os.path.join(folder, "m.onnx"), os.path.join(folder, "x.npy")
    apart(conv_net, model, [(2, 32), (2, 64)], 32, 10, 64, 2)
    apart(noise, data, (512, 3, 64, 64))
    rival = """
import numpy as np, onnxruntime as ort, sys
options = ort.SessionOptions()
options.intra_op_num_threads = 1
x = np.load(sys.argv[2])
for _ in range(2):
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    for i in range(0, len(x), 16):
        session.run(None, {"x": x[i:i + 16]})
"""
    rivals = [("onnxruntime", python(rival, model, data))] if has("onnxruntime") else []
    ours = [tutee, "check", model, model, "--data", data, "--threads", "1", "-q"]
    versus("check: teacher and student on 512 images, one thread", ours, rivals)


def start(tutee, folder):
    walls = []
    for _ in range(20):
        begin = time.perf_counter()
        run([tutee, "--version"])
        walls.append(time.perf_counter() - begin)
    print(f"start-up\n  tutee {1e3 * statistics.median(walls):.1f} ms wall, of 20 runs")


def calibrate(tutee, folder):
    model, data, out = (os.path.join(folder, name) for name in ("m.onnx", "x.npy", "out.onnx"))
    apart(conv_net, model, *RESNET_50)
    apart(noise, data, (64, 3, 224, 224))
    ours = [tutee, "compress", model, "-o", out, "-p", "cluster-weights:bits=4", "--calib", data, "-q"]
    print("ResNet-50-sized, 64 images, 4 bits with calibration")
    begin = time.perf_counter()
    cpu, peak, _ = run(ours)
    print(f"  tutee {cpu:.1f} s CPU, {time.perf_counter() - begin:.1f} s wall, {peak:.0f} MB")


SECTIONS = {f.__name__: f for f in (clean, kmeans, svd, check, start, calibrate)}

if __name__ == "__main__":
    if len(sys.argv) < 2 or any(name not in SECTIONS for name in sys.argv[2:]):
        sys.exit(__doc__)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[2:] or SECTIONS:
            SECTIONS[name](sys.argv[1], folder)
