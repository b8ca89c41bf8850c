"""The structural gate: students pass, everything else is named and refused before it is loaded."""

import struct

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from edgecmd.core.errors import ExportError
from export.profiles.table import make_profile
from export.trust.errors import GateError
from export.trust.gate import ALLOWED, GateLimits, WireError, gate, gate_file, structure_bytes

ONES = numpy_helper.from_array(np.ones((1, 4), np.float32), "ones")


def weight(values, name, dtype=np.float32):
    return numpy_helper.from_array(np.array(values, dtype), name)


def model(nodes=None, weights=(ONES,), *, outputs=("embedding",), **changes):
    """A graph whose embedding is constant: the least that passes."""
    graph = helper.make_graph(
        nodes or [helper.make_node("Identity", ["ones"], ["embedding"])],
        "student",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32, 32, 1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in outputs],
        initializer=list(weights),
    )
    imports = [helper.make_opsetid("", changes.get("opset", 20))]
    return helper.make_model(graph, opset_imports=imports, ir_version=changes.get("ir_version", 10))


def raw(value):
    return value if isinstance(value, bytes) else value.SerializeToString(deterministic=True)


def node(kind, inputs, outputs=("embedding",), **attributes):
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def changed(change, **kwargs):
    made = model(**kwargs)
    change(made)
    return made


def branch():
    return helper.make_graph(
        [node("Identity", ["ones"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1, 4])],
    )


def with_function():
    made = model()
    imports = [helper.make_opsetid("", 20)]
    made.functions.append(
        helper.make_function("", "Twice", ["x"], ["y"], [node("Add", ["x", "x"], ["y"])], imports)
    )
    return made


def external(location="weights.bin"):
    tensor = TensorProto(name="ones", data_type=TensorProto.FLOAT, dims=[1, 4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def claiming(dims, content=b"\0" * 16, data_type=TensorProto.FLOAT):
    return TensorProto(name="ones", data_type=data_type, dims=dims, raw_data=content)


def constant_of(tensor):
    return [node("Constant", [], value=tensor)]


def sparse_constant():
    made = node("Constant", [])
    attribute = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.values.CopyFrom(ONES)
    made.attribute.append(attribute)
    return [made]


def outer_product():
    vector = weight(np.ones(4096), "v")
    axes = [weight(pair, f"a{place}", np.int64) for place, pair in enumerate(([1, 2], [0, 2], [0, 1]))]
    nodes = [node("Unsqueeze", ["v", f"a{place}"], [f"u{place}"]) for place in range(3)]
    nodes += [node("Mul", ["u0", "u1"], ["m"]), node("Mul", ["m", "u2"], ["n"]), node("Flatten", ["n"])]
    return model(nodes, [vector, *axes])


def bomb(kind, inputs, weights):
    """Picture to floats, then an operator that makes it huge."""
    start = [node("Cast", ["image"], ["f"], to=1), node("Transpose", ["f"], ["g"], perm=[0, 3, 1, 2])]
    attributes = {"pads": [2**20] * 4} if kind == "Conv" else {}
    return model([*start, node(kind, inputs, ["h"], **attributes), node("Flatten", ["h"])], weights)


HUGE = weight([2**20, 2**20], "huge", np.int64)
BAD = {
    "empty": (b"", "is empty"),
    "garbage": (b"\x07garbage that is no protobuf", "not an ONNX file"),
    "text": (b"<html><body>404 not found</body></html>", "not an ONNX file"),
    "pickle": (b"\x80\x04cposix\nsystem\n(S'id'\ntR.", "not an ONNX file"),
    "truncated": (raw(model())[:-9], "not an ONNX file"),
    "unknown field": (raw(model()) + b"\xfa\x07\x04evil", "belong to no known field"),
    "opset too new": (model(opset=23), r"opset \[23\]; allowed"),
    "opset too old": (model(opset=13), r"opset \[13\]; allowed"),
    "no opset": (changed(lambda m: m.ClearField("opset_import")), r"opset \[\]; allowed"),
    "opset twice": (changed(lambda m: m.opset_import.add(domain="ai.onnx", version=20)), r"opset \[20, 20\]"),
    "file format": (model(ir_version=3), "ir_version=3"),
    "foreign opset import": (
        changed(lambda m: m.opset_import.add(domain="com.microsoft", version=1)),
        "domain 'com.microsoft'",
    ),
    "foreign node": (model([node("Identity", ["ones"], domain="evil.ops")]), "domain 'evil.ops'"),
    "function": (with_function(), "1 functions"),
    "training": (changed(lambda m: m.training_info.add()), "1 training_info"),
    "name that is not UTF-8": (
        raw(changed(lambda m: setattr(m.graph.node[0], "name", "nodename"))).replace(
            b"nodename", b"node\xff\xfe!!"
        ),
        "not UTF-8",
    ),
    "comment": (changed(lambda m: setattr(m.graph.node[0], "doc_string", "/home/me/x.py")), "has a comment"),
    "comment on the model": (changed(lambda m: setattr(m, "doc_string", "hi")), "comment on model"),
    "comment on an input": (changed(lambda m: setattr(m.graph.input[0], "doc_string", "x")), "'image' has a"),
    "node metadata": (
        changed(
            lambda m: m.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home")
        ),
        "has a comment",
    ),
    "foreign property": (changed(lambda m: m.metadata_props.add(key="x", value="y")), "property 'x'"),
    "property twice": (
        changed(lambda m: [m.metadata_props.add(key="edgecmd.a", value=v) for v in "bc"]),
        "property 'edgecmd.a' occurs twice",
    ),
    "long property": (
        changed(lambda m: m.metadata_props.add(key="edgecmd.a", value="x" * 1_200_000)),
        "1,200,000 letters",
    ),
    "sparse weight": (changed(lambda m: m.graph.sparse_initializer.add()), "1 sparse weights"),
    "sparse constant": (model(sparse_constant()), "'sparse_value' of type 11"),
    "annotation": (changed(lambda m: m.graph.quantization_annotation.add()), "quantization annotations"),
    "no node": (changed(lambda m: m.graph.ClearField("node")), "0 nodes"),
    "if": (
        model(
            [node("If", ["c"], then_branch=branch(), else_branch=branch())], [ONES, weight(True, "c", bool)]
        ),
        "'If', has a sub-graph",
    ),
    "loop": (
        model([node("Loop", ["n", "", "ones"], body=branch())], [ONES, weight(2**40, "n", np.int64)]),
        "'Loop', has a sub-graph",
    ),
    "scan": (model([node("Scan", ["ones"], body=branch(), num_scan_inputs=1)]), "'Scan', has a sub-graph"),
    "unknown operator": (model([node("Sofmax", ["ones"])]), "'Sofmax'.* Did you mean 'Softmax'"),
    "tile": (
        model([node("Tile", ["ones", "huge"])], [ONES, HUGE]),
        "'Tile', which is not an operator of a student",
    ),
    "range": (model([node("Range", ["ones"] * 3)]), "'Range', which is not an operator of a student"),
    "random": (model([node("RandomNormal", [], shape=[9])]), "'RandomNormal', which is not an operator"),
    "attribute of a function": (
        changed(lambda m: m.graph.node[0].attribute.add(name="a", type=2, ref_attr_name="b")),
        "attribute 'a' of type 2",
    ),
    "attribute twice": (
        changed(lambda m: [m.graph.node[0].attribute.add(name="a", type=2, i=1) for _ in "12"]),
        "attribute 'a' occurs twice",
    ),
    "attribute beyond 2^31": (model([node("Flatten", ["ones"], axis=2**40)]), r"beyond 2\^31 in 'axis'"),
    "cycle": (
        model([node("Add", ["embedding", "b"], ["a"]), node("Identity", ["a"], ["embedding"])]),
        "uses 'embedding', which nothing before it produces",
    ),
    "out of order": (
        model([node("Identity", ["a"]), node("Identity", ["ones"], ["a"])]),
        "uses 'a', which nothing before it produces",
    ),
    "made twice": (model([node("Identity", ["ones"])] * 2), "makes 'embedding', which already exists"),
    "weight twice": (model(weights=(ONES, ONES)), "weight 'ones' occurs twice"),
    "output of no node": (
        model([node("Identity", ["ones"], ["a"])]),
        "'embedding' is not produced by any node",
    ),
    "renamed input": (
        changed(lambda m: setattr(m.graph.input[0], "name", "picture")),
        r"inputs \['picture'\]; allowed is one of",
    ),
    "second input": (changed(lambda m: m.graph.input.append(m.graph.input[0])), "occurs twice"),
    "renamed output": (
        model([node("Identity", ["ones"], ["vector"])], outputs=["vector"]),
        r"outputs \['vector'\]",
    ),
    "input of floats": (
        changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT)),
        "'image' has elem_type=1",
    ),
    "input of another rank": (
        changed(lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1)),
        "5 dimensions",
    ),
    "input without a shape": (
        changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
        "0 dimensions",
    ),
    "input that is a sequence": (
        changed(lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.ClearField("shape")),
        "'image' has elem_type=0",
    ),
    "huge declared input": (
        changed(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2**40)),
        r"sizes \[1099511627776, 32, 1\]",
    ),
    "huge declared value": (
        changed(lambda m: m.graph.value_info.append(helper.make_tensor_value_info("x", 1, [2**20, 2**20]))),
        "Value 'x' has 1,099,511,627,776 numbers",
    ),
    "external": (model(weights=[external()]), r"external data, kept at \['weights.bin'\]"),
    "external, parent folder": (model(weights=[external("../../etc/passwd")]), "external data"),
    "external, absolute": (model(weights=[external("/etc/passwd")]), "external data"),
    "external in a constant": (model(constant_of(external())), "external data"),
    "external places only": (
        changed(lambda m: m.graph.initializer[0].external_data.add(key="location", value="x")),
        "external data",
    ),
    "giant claim": (model(weights=[claiming([2**40])]), "claims 1,099,511,627,776 numbers"),
    "2^64 claim": (model(weights=[claiming([2**32, 2**32])]), "claims 18,446,744,073,709,551,616"),
    "negative claim": (model(weights=[claiming([-1, -4])]), r"has shape \[-1, -4\]"),
    "rank 9": (model(weights=[claiming([1] * 9)]), "up to 8 sizes"),
    "too little data": (model(weights=[claiming([1, 4], b"\0" * 15)]), "15 bytes of data .* need 16"),
    "too much data": (model(weights=[claiming([1, 4], b"\0" * 17)]), "17 bytes of data .* need 16"),
    "no data": (model(weights=[TensorProto(name="ones", data_type=1, dims=[1, 4])]), "0 numbers of data"),
    "typed data of another length": (
        model(weights=[TensorProto(name="ones", data_type=1, dims=[1, 4], float_data=[0.0])]),
        "1 numbers of data",
    ),
    "two kinds of data": (
        model(weights=[TensorProto(name="ones", data_type=1, dims=[1], float_data=[0], raw_data=b"\0" * 4)]),
        "4 bytes of data but",
    ),
    "text as weight": (
        model(weights=[helper.make_tensor("ones", TensorProto.STRING, [1], [b"x"])]),
        "data_type=8",
    ),
    "segment": (changed(lambda m: setattr(m.graph.initializer[0].segment, "begin", 1)), "one segment"),
    "nan": (model(weights=[weight([[1, 2, np.nan, 4]], "ones")]), "1 numbers that are not finite"),
    "infinity": (model(weights=[weight([[1, -np.inf, np.inf, 4]], "ones")]), "2 numbers that are not"),
    "nan in a constant": (model(constant_of(weight([[np.nan] * 4], "c"))), "4 numbers that are not"),
    "nan, typed": (
        model(weights=[TensorProto(name="ones", data_type=1, dims=[1], float_data=[np.nan])]),
        "1 numbers that are not",
    ),
    "expand": (bomb("Expand", ["ones", "huge"], [ONES, HUGE]), "'Expand' to"),
    "expand of a constant node": (
        model([node("Constant", [], ["huge"], value=HUGE), node("Expand", ["ones", "huge"])]),
        "'Expand' to",
    ),
    "expand to a computed size": (
        model(
            [
                node("Mul", ["k", "k"], ["m"]),
                node("Mul", ["m", "m"], ["n"]),
                node("Expand", ["ones", "n"], ["e"]),
                node("Flatten", ["e"]),
            ],
            [weight([[1.0]], "ones"), weight([1024], "k", np.int64)],
        ),
        "Value 'e' has 1,099,511,627,776 numbers",
    ),
    "resize by a million": (
        bomb("Resize", ["g", "", "s"], [weight([1, 1, 1e6, 1e6], "s")]),
        "'Resize' to",
    ),
    "resize to a million": (
        bomb("Resize", ["g", "", "", "s"], [weight([1, 1, 10**6, 10**6], "s", np.int64)]),
        "'Resize' to",
    ),
    "padding": (bomb("Conv", ["g", "w"], [weight([[[[1.0]]]], "w")]), r"Value 'h' has 4,398,\d+,\d+,\d+"),
    "outer product": (outer_product(), "68,719,476,736 numbers"),
    "contradicting shapes": (
        model([node("Add", ["ones", "three"])], [ONES, weight([1, 2, 3], "three")]),
        "contradict each other",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_refused_with_its_fault_and_a_way_out(fault):
    bad, expected = BAD[fault]
    with pytest.raises(GateError, match=expected) as caught:
        gate(raw(bad), name="x.onnx")
    assert str(caught.value).startswith("x.onnx: ")
    assert "edgecmd export" in str(caught.value)
    assert caught.value.exit_code == ExportError.exit_code


def test_the_least_model_passes_and_is_returned():
    assert gate(raw(model())) == model()


@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
def test_students_pass(bundle, architecture):
    for path in bundle(architecture).glob("*.onnx"):
        assert gate_file(path) == onnx.load(path)


def test_two_weights_in_a_byte_pass(bundle):
    gate(make_profile((bundle("ws-50k") / "student.onnx").read_bytes(), "w4"))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_file_bytes": 100}, r"101 bytes or more; allowed are 100"),
        ({"max_structure_bytes": 1000}, "of structure"),
        ({"max_nodes": 10}, "nodes; allowed are 1 to 10"),
        ({"max_elements": 1000}, "claims"),
        ({"max_weights": 5000}, "weights have"),
        ({"opsets": (20,)}, "opset"),
        ({"ir_versions": (9,)}, "ir_version=8"),
    ],
)
def test_limits_are_the_callers(bundle, limits, expected):
    with pytest.raises(GateError, match=expected):
        gate_file(bundle("ws-50k") / "student.onnx", limits=GateLimits(**limits))


def test_empty_nodes_by_the_thousand_are_not_parsed():
    """Two bytes each in the file, a hundred in memory."""
    data = b"\x3a" + b"\x80\x80\x01" + b"\x0a\x00" * (1 << 13)
    with pytest.raises(GateError, match="4,0\\d\\d bytes or more of structure"):
        gate(data, limits=GateLimits(max_structure_bytes=4000))


def test_a_missing_file_is_an_error_of_the_gate(tmp_path):
    with pytest.raises(GateError, match=r"gone\.onnx cannot be read"):
        gate_file(tmp_path / "gone.onnx")


def test_four_bit_weights_are_two_in_a_byte():
    for num_bytes, passes in ((2, True), (3, False)):
        weights = [
            ONES,
            TensorProto(name="w", data_type=TensorProto.INT4, dims=[3], raw_data=b"\1" * num_bytes),
        ]
        if passes:
            with pytest.raises(GateError, match="'w' is used by no node"):
                gate(raw(model(weights=weights)))
        else:
            with pytest.raises(GateError, match="3 bytes of data"):
                gate(raw(model(weights=weights)))


def test_no_allowed_operator_has_a_sub_graph_or_chance():
    """By the operators' own definitions in ONNX."""
    for name in ALLOWED:
        schema = onnx.defs.get_schema(name, 20)
        kinds = {attribute.type for attribute in schema.attributes.values()}
        assert onnx.defs.OpSchema.AttrType.GRAPH not in kinds
        assert not name.startswith(("Random", "Multinomial", "Bernoulli"))


@given(st.integers(0, 10**6))
def test_a_flipped_byte_is_refused_or_parses_to_what_it_says(place):
    data = bytearray(raw(model()))
    data[place % len(data)] ^= 1 + place % 255
    try:
        passed = gate(bytes(data))
    except GateError:
        return
    assert passed.ByteSize() == len(data)


@given(st.lists(st.tuples(st.binary(max_size=64), st.binary(max_size=40)), max_size=6))
def test_structure_is_the_file_without_raw_data(weights):
    """Against protobuf itself: a message with the raw data taken out, each short field counting as 16."""
    made = onnx.ModelProto()
    for name, content in weights:
        made.graph.initializer.add(name=name.hex(), raw_data=content)
    counted = structure_bytes(raw(made), limit=10**9)
    expected = 16 if made.HasField("graph") else 0
    for name, _ in weights:
        expected += 16 + max(16, 2 + len(name.hex())) + 16
    assert counted == expected


@pytest.mark.parametrize("data", [b"\x0f", b"\x3a\x05\x01", b"\xff" * 11, b"\x09\x01", b"\x0b"])
def test_no_protobuf_is_a_wire_error(data):
    with pytest.raises(WireError):
        structure_bytes(data, limit=100)


def test_fields_of_fixed_length_count_as_themselves():
    assert structure_bytes(b"\x09" + struct.pack("<d", 1) + b"\x0d" + struct.pack("<f", 1), limit=99) == 32
