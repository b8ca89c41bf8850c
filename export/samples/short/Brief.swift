// Calls the student of an edgecmd bundle in Swift: golden inputs in, and how far its outputs are from theirs.
// It needs a bundle of `edgecmd export RUN --profiles w8,core`, and ONNX Runtime: the Swift package
// onnxruntime-swift-package-manager, product `onnxruntime` (or the pod onnxruntime-objc). macOS or iOS:
//
//   swift run Student BUNDLE
//
// What makes the input of a picture is in Embed.swift, a folder above, as are the checks of a bundle.
// Exit codes: 0 all well; 2 a file cannot be used; 6 an output differs by more than core.json allows.
// Checked: its grammar alone (tests/export/test_samples_phones.py). It was never compiled and never run.
import Foundation
import OnnxRuntimeBindings

struct Refused: Error { let message: String }

struct Core: Decodable {
    struct Array: Decodable { let name: String, file: String, shape: [Int] }
    struct Case: Decodable { let arrays: [Array] }
    struct Port: Decodable { let name: String, shape: [Int] }
    let format: String, model: String, input: Port, outputs: [Port], tolerance: [String: Float], cases: [Case]
}

func run(_ folder: URL) throws -> Int32 {
    func bytes(_ name: String) throws -> Data { try Data(contentsOf: folder.appendingPathComponent(name)) }
    let core = try JSONDecoder().decode(Core.self, from: bytes("core.json"))
    guard core.format == "1", let first = core.cases.first, let allowed = core.tolerance["outputs"] else {
        throw Refused(message: "core.json has format \(core.format); this sample reads 1")
    }
    func raw(_ name: String) throws -> Data { // little-endian float32, rows first
        guard let one = first.arrays.first(where: { $0.name == name }) else { throw Refused(message: "core.json has no \(name)") }
        let data = try bytes(one.file), needed = one.shape.reduce(4, *)
        guard data.count == needed else { throw Refused(message: "\(one.file) has \(data.count) bytes; core.json says \(needed)") }
        return data
    }
    func floats(_ data: Data) -> [Float] { data.withUnsafeBytes { [Float]($0.bindMemory(to: Float.self)) } }

    let environment = try ORTEnv(loggingLevel: .error), path = folder.appendingPathComponent(core.model).path
    let session = try ORTSession(env: environment, modelPath: path, sessionOptions: nil)
    let names = core.outputs.map { $0.name }, shape = core.input.shape.map { NSNumber(value: $0) }
    let scaled = try raw("scaled"), size = core.input.shape.reduce(4, *)
    var found: [String: [Float]] = [:]
    for at in stride(from: 0, to: scaled.count, by: size) { // the core takes one input at a time
        let input = try ORTValue(tensorData: NSMutableData(data: scaled.subdata(in: at..<(at + size))), elementType: .float, shape: shape)
        let outputs = try session.run(withInputs: ["scaled": input], outputNames: Set(names), runOptions: nil)
        for (name, value) in outputs { found[name, default: []] += floats(try value.tensorData() as Data) }
    }

    var within = true, gap: Float = 0
    for name in names {
        let expected = floats(try raw(name)), given = found[name] ?? []
        guard given.count == expected.count else { throw Refused(message: "\(name) has another length than core.json says") }
        for (one, other) in zip(given, expected) {
            gap = max(gap, abs(one - other))
            within = within && abs(one - other) <= allowed // no number that is not finite is
        }
    }
    print("differs by \(gap), allowed \(allowed)")
    if let scores = found["scores"]?.prefix(core.outputs.first { $0.name == "scores" }?.shape[1] ?? 0), let best = scores.max() {
        let labels = try JSONDecoder().decode([String].self, from: bytes("labels.json"))
        print("nearest class \(labels[scores.firstIndex(of: best) ?? 0]) \(best)")
    } else {
        print("first values \(found["embedding"]?.prefix(4).map { String($0) }.joined(separator: " ") ?? "")")
    }
    return within ? 0 : 6
}

do {
    exit(try run(URL(fileURLWithPath: CommandLine.arguments.dropFirst().first ?? ".")))
} catch {
    let reason = (error as? Refused)?.message ?? error.localizedDescription
    FileHandle.standardError.write(Data("error: this is no bundle that Brief.swift reads (\(reason)).\n".utf8))
    exit(2)
}
