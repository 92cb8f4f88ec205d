"""Students as build targets: every input is declared, so that the action is hermetic and can be cached anywhere."""

def _student_impl(ctx):
    student = ctx.actions.declare_file(ctx.label.name + ".onnx")
    report = ctx.actions.declare_file(ctx.label.name + ".json")
    arguments = ctx.actions.args()
    arguments.add("compress").add(ctx.file.teacher)
    arguments.add("-o", student)
    arguments.add("--report", report)
    arguments.add("--quiet")
    inputs = [ctx.file.teacher] + ctx.files.data
    if ctx.file.recipe:
        arguments.add("-r", ctx.file.recipe)
        inputs.append(ctx.file.recipe)
    arguments.add_all(ctx.attr.options)
    ctx.actions.run(
        executable = ctx.executable.tutee,
        arguments = [arguments],
        inputs = inputs,
        outputs = [student, report],
        mnemonic = "TuteeCompress",
        progress_message = "Compressing %s" % ctx.file.teacher.short_path,
    )
    return [DefaultInfo(files = depset([student, report]))]

student = rule(
    implementation = _student_impl,
    doc = "A smaller network, NAME.onnx, with its report, NAME.json.",
    attrs = {
        "teacher": attr.label(allow_single_file = [".onnx"], mandatory = True),
        "recipe": attr.label(allow_single_file = [".toml"]),
        "data": attr.label_list(
            allow_files = True,
            doc = "What else is read: external data of the teacher, data that the recipe names.",
        ),
        "options": attr.string_list(doc = "More arguments of tutee compress."),
        "tutee": attr.label(default = "//tools:tutee", executable = True, cfg = "exec", allow_single_file = True),
    },
)
