// Runs the core of an edgecmd bundle in Swift: checks it, embeds a picture, names the nearest classes.
// It needs a bundle of `edgecmd export RUN --profiles w8,core`, and ONNX Runtime: the Swift package
// onnxruntime-swift-package-manager, product `onnxruntime` (or the pod onnxruntime-objc). macOS or iOS:
//
//   swift run Embed BUNDLE                                      # the golden files alone
//   swift run Embed BUNDLE picture.pgm [CLASS=example.pgm ...]
//
// Pictures are binary PGM or PPM of 8 bits; in an app, fill a Picture from a CGImage's pixels (red, green, blue).
// Exit codes: 0 all well; 2 a file cannot be used; 6 a golden value differs.
// Checked: its grammar alone (tests/export/test_samples_phones.py). It was never compiled and never run.
import Foundation
import OnnxRuntimeBindings

struct Refused: Error {
    let message: String
    let code: Int32

    init(_ message: String, code: Int32 = 2) {
        self.message = message
        self.code = code
    }
}

typealias Record = [String: Any]

func bytes(of url: URL) throws -> Data {
    do { return try Data(contentsOf: url) } catch { throw Refused("\(url.path) cannot be read (\(error.localizedDescription)).") }
}

/// A value of core.json of the type that is wanted.
func get<Value>(_ record: Any?, _ key: String) throws -> Value {
    guard let found = (record as? Record)?[key] as? Value else {
        throw Refused("core.json has no '\(key)' as this sample reads it. Export with --profiles w8,core.")
    }
    return found
}

// ---- The bundle: raw files and pictures ----

struct Values {
    let shape: [Int]
    let numbers: [Float]

    func row(_ at: Int) -> [Float] {
        let size = numbers.count / shape[0]
        return Array(numbers[at * size..<(at + 1) * size])
    }
}

func readRaw(_ folder: URL, _ header: Any) throws -> Values {
    let file: String = try get(header, "file"), dtype: String = try get(header, "dtype")
    let shape: [Int] = try get(header, "shape"), order: String = try get(header, "byte_order")
    let widths = ["uint8": 1, "uint16": 2, "float32": 4]
    guard let width = widths[dtype], order == "little", !file.contains("/"), !shape.isEmpty, shape.allSatisfy({ $0 > 0 }) else {
        throw Refused("core.json has a header of \(file) that this sample does not read.")
    }
    let data = [UInt8](try bytes(of: folder.appendingPathComponent(file)))
    let needed = shape.reduce(Double(width)) { $0 * Double($1) }
    guard Double(data.count) == needed else {
        throw Refused("\(file) has \(data.count) bytes; its header needs \(needed). Copy the bundle again.")
    }
    let numbers: [Float] = stride(from: 0, to: data.count, by: width).map { at in
        let bits = (0..<width).reduce(UInt32(0)) { $0 | UInt32(data[at + $1]) << UInt32(8 * $1) }
        return dtype == "float32" ? Float(bitPattern: bits) : Float(bits)
    }
    return Values(shape: shape, numbers: numbers)
}

/// Levels 0 to 255, rows from the top, channels last.
struct Picture {
    let height: Int
    let width: Int
    let channels: Int
    let levels: [Float]
}

func readPicture(_ path: String, channels wanted: Int) throws -> Picture {
    let data = [UInt8](try bytes(of: URL(fileURLWithPath: path)))
    var at = 2
    var numbers: [Int] = []
    while numbers.count < 3, at < data.count {
        if data[at] == 35 { // # begins a comment
            while at < data.count, data[at] != 10 { at += 1 }
        } else if (48...57).contains(data[at]) {
            var number = 0
            while at < data.count, (48...57).contains(data[at]), number < 100_000_000 {
                number = 10 * number + Int(data[at]) - 48
                at += 1
            }
            numbers.append(number)
        } else {
            at += 1
        }
    }
    guard numbers.count == 3, data[0] == 80, [53, 54].contains(data[1]), numbers[2] == 255,
          (1...(1 << 26)).contains(numbers[0] * numbers[1]) else {
        throw Refused("\(path) is no binary PGM or PPM of 8 bits with 1 to 67108864 pixels.")
    }
    let channels = data[1] == 54 ? 3 : 1, count = numbers[0] * numbers[1] * channels
    guard channels == wanted else { throw Refused("\(path) has \(channels) channels; the student takes \(wanted).") }
    guard data.count >= at + 1 + count else { throw Refused("\(path) is cut off: it has \(data.count) bytes.") }
    return Picture(height: numbers[1], width: numbers[0], channels: channels, levels: data[(at + 1)..<(at + 1 + count)].map(Float.init))
}

// ---- The front end `image`, as core.json tells it in words ----

/// For each of `num` numbers the pixels that it is made of, of `pixels`: whole blocks, or a linear filter.
func shares(_ num: Int, of pixels: Int, blocks: Bool) -> [[(Int, Double)]] {
    let zoom = Double(pixels) / Double(num), reach = max(zoom, 1)
    return (0..<num).map { i in
        let centre = (Double(i) + 0.5) * zoom
        let first = max(0, Int((centre - reach).rounded(.down)) - 1), last = min(pixels - 1, Int(centre + reach) + 1)
        let parts = (first...last).map { j -> (Int, Double) in
            let gap = abs(Double(j) + 0.5 - centre)
            return (j, blocks ? (gap < zoom / 2 ? 1 : 0) : max(0, 1 - gap / reach))
        }
        let total = parts.reduce(0) { $0 + $1.1 }
        return parts.filter { $0.1 > 0 }.map { ($0.0, $0.1 / total) }
    }
}

func see(_ picture: Picture, _ numbers: Record) throws -> [Float] {
    let side: Int = try get(numbers, "image_size"), fit = numbers["fit"] as? String
    let offset: Double = try get(numbers, "offset"), scale: Double = try get(numbers, "scale")
    let short = min(picture.height, picture.width)
    let height = fit == "crop" ? short : picture.height, width = fit == "crop" ? short : picture.width
    let top = (picture.height - height) / 2, left = (picture.width - width) / 2, long = max(height, width)
    func shown(_ one: Int) -> Int { fit == "pad" ? max(1, (2 * side * one + long) / (2 * long)) : side }
    let rows = shown(height), columns = shown(width)
    let blocks = height % rows == 0 && width % columns == 0
    let down = shares(rows, of: height, blocks: blocks), across = shares(columns, of: width, blocks: blocks)
    var scaled = [Float](repeating: Float((1 - offset) / scale), count: picture.channels * side * side) // white
    for channel in 0..<picture.channels {
        for row in 0..<rows {
            var line = [Double](repeating: 0, count: width)
            for (y, share) in down[row] {
                for x in 0..<width {
                    line[x] += share * Double(picture.levels[((top + y) * picture.width + left + x) * picture.channels + channel])
                }
            }
            for column in 0..<columns {
                let level = (across[column].reduce(0) { $0 + $1.1 * line[$1.0] } + 0.501).rounded(.down)
                let place = (channel * side + (side - rows) / 2 + row) * side + (side - columns) / 2 + column
                scaled[place] = Float((level / 255 - offset) / scale)
            }
        }
    }
    return scaled
}

// ---- The student: float32 (1, channels, side, side) to its outputs by name ----

final class Student {
    let names: [String]
    private let environment: ORTEnv
    private let session: ORTSession
    private let input: String
    private let shape: [Int]

    init(_ folder: URL, _ record: Record) throws {
        let file: String = try get(record, "model"), port: Record = try get(record, "input"), outputs: [Record] = try get(record, "outputs")
        input = try get(port, "name")
        shape = try get(port, "shape")
        names = try outputs.map { try get($0, "name") }
        environment = try ORTEnv(loggingLevel: .error)
        session = try ORTSession(env: environment, modelPath: folder.appendingPathComponent(file).path, sessionOptions: nil)
    }

    func run(_ scaled: [Float]) throws -> [String: [Float]] {
        guard scaled.count == shape.reduce(1, *) else { throw Refused("The input has \(scaled.count) numbers; the core takes \(shape).") }
        let data = scaled.withUnsafeBytes { NSMutableData(bytes: $0.baseAddress, length: $0.count) }
        let tensor = try ORTValue(tensorData: data, elementType: .float, shape: shape.map { NSNumber(value: $0) })
        let found = try session.run(withInputs: [input: tensor], outputNames: Set(names), runOptions: nil)
        return try found.mapValues { value in
            let raw = try value.tensorData() as Data
            return raw.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        }
    }
}

func gap(_ found: [Float]?, _ expected: [Float]) -> Double {
    guard let found = found, found.count == expected.count else { return .infinity }
    return zip(found, expected).map { one, other in
        let gap = abs(Double(one) - Double(other))
        return gap.isFinite ? gap : .infinity
    }.max() ?? 0
}

/// Compares preprocessing and student, apart, with the golden files.
func check(_ folder: URL, _ record: Record, _ student: Student) throws {
    let frontEnd: Record = try get(record, "front_end"), front: String = try get(frontEnd, "name")
    let numbers: Record = try get(frontEnd, "numbers"), allowed: Record = try get(record, "tolerance")
    let cases: [Record] = try get(record, "cases")
    for one in cases {
        let headers: [Record] = try get(one, "arrays"), title: String = try get(one, "name")
        var arrays: [String: Values] = [:]
        for header in headers { arrays[try get(header, "name")] = try readRaw(folder, header) }
        func array(_ name: String) throws -> Values {
            guard let found = arrays[name], found.shape[0] == arrays["scaled"]?.shape[0] else { throw Refused("core.json lists no fitting '\(name)'.") }
            return found
        }
        var seen = 0.0, given = 0.0
        for row in 0..<(try array("scaled").shape[0]) {
            let scaled = try array("scaled").row(row)
            if front == "image" {
                let raw = try array("image")
                guard raw.shape.count == 4 else { throw Refused("core.json lists pictures that are not (N, height, width, channels).") }
                let picture = Picture(height: raw.shape[1], width: raw.shape[2], channels: raw.shape[3], levels: raw.row(row))
                seen = max(seen, gap(try see(picture, numbers), scaled))
            }
            let found = try student.run(scaled)
            for name in student.names { given = max(given, gap(found[name], try array(name).row(row))) }
        }
        let told = front == "image" ? String(format: "differs by %.3g", seen) : "(\(front)) is not checked"
        print("\(title): preprocessing \(told), student by \(String(format: "%.3g", given))")
        guard seen <= (try get(allowed, "scaled")), given <= (try get(allowed, "outputs")) else {
            throw Refused("The golden values of \(title) differ by more than core.json allows.", code: 6)
        }
    }
}

/// The picture's nearest classes: of the examples, else the trained ones.
func answer(_ folder: URL, _ record: Record, _ student: Student, _ words: [String]) throws -> String {
    let frontEnd: Record = try get(record, "front_end"), front: String = try get(frontEnd, "name")
    guard front == "image" else { throw Refused("The front end \(front) is not in this sample; its steps are in core.json.") }
    let numbers: Record = try get(frontEnd, "numbers"), channels: Int = try get(numbers, "channels")
    func embed(_ path: String) throws -> [String: [Float]] { try student.run(see(readPicture(path, channels: channels), numbers)) }
    let found = try embed(words[0]), embedding = found["embedding"] ?? []
    var sums: [String: [Double]] = [:]
    for word in words.dropFirst() {
        guard let equals = word.firstIndex(of: "="), equals > word.startIndex else { throw Refused("\(word) is no CLASS=example.pgm.") }
        let example = try embed(String(word[word.index(after: equals)...]))["embedding"] ?? []
        let name = String(word[..<equals]), before = sums[name] ?? [Double](repeating: 0, count: example.count)
        sums[name] = zip(before, example).map { $0 + Double($1) }
    }
    var scores: [(String, Double)] = sums.map { name, sum in
        let length = sum.reduce(0) { $0 + $1 * $1 }.squareRoot()
        return (name, zip(sum, embedding).reduce(0) { $0 + $1.0 * Double($1.1) } / length)
    }
    if sums.isEmpty, let trained = found["scores"] {
        let labels = try JSONSerialization.jsonObject(with: bytes(of: folder.appendingPathComponent("labels.json"))) as? [String]
        scores = zip(labels ?? [], trained).map { ($0, Double($1)) }
    }
    guard !scores.isEmpty else { return "\(words[0]): first values " + embedding.prefix(4).map { String(format: "%+.4f", $0) }.joined(separator: " ") }
    let best = scores.sorted { $0.1 > $1.1 }.prefix(3)
    return "\(words[0]): " + best.map { "\($0.0) \(String(format: "%.4f", $0.1))" }.joined(separator: ", ")
}

func main(_ words: [String]) throws {
    guard let first = words.first else { throw Refused("Give a bundle: Embed BUNDLE [picture.pgm [CLASS=example.pgm ...]]") }
    let folder = URL(fileURLWithPath: first), text = try bytes(of: folder.appendingPathComponent("core.json"))
    guard let record = (try? JSONSerialization.jsonObject(with: text)) as? Record else { throw Refused("\(first)/core.json is no JSON object.") }
    let format: String = try get(record, "format")
    guard format == "1" else { throw Refused("core.json has format \(format); this sample reads 1. Take that edgecmd's sample.") }
    let student = try Student(folder, record)
    try check(folder, record, student)
    if words.count > 1 { print(try answer(folder, record, student, Array(words.dropFirst()))) }
}

do {
    try main(Array(CommandLine.arguments.dropFirst()))
} catch let error as Refused {
    FileHandle.standardError.write(Data("error: \(error.message)\n".utf8))
    exit(error.code)
} catch {
    FileHandle.standardError.write(Data("error: this cannot be computed: \(error.localizedDescription)\n".utf8))
    exit(2)
}
