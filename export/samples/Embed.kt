// Runs the core of an edgecmd bundle in Kotlin: checks it, embeds a picture, names the nearest classes.
// It needs a bundle of `edgecmd export RUN --profiles w8,core` and ONNX Runtime for Java: on Android
// com.microsoft.onnxruntime:onnxruntime-android, on a computer com.microsoft.onnxruntime:onnxruntime.
//
//   kotlinc Embed.kt -cp onnxruntime.jar -include-runtime -d embed.jar
//   java -cp embed.jar:onnxruntime.jar EmbedKt BUNDLE                       # the golden files alone
//   java -cp embed.jar:onnxruntime.jar EmbedKt BUNDLE picture.pgm [CLASS=example.pgm ...]
//
// Pictures are binary PGM or PPM of 8 bits; on Android, fill a Picture from a Bitmap's pixels (red, green, blue).
// Exit codes: 0 all well; 2 a file cannot be used; 6 a golden value differs.
// Checked: compiled, and run against the golden files with a stand-in for ai.onnxruntime that computes in Python
// (tests/export/test_samples_phones.py). Not run with the real library, nor on a phone.
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.util.Locale
import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sqrt
import kotlin.system.exitProcess

class Refused(message: String, val code: Int = 2) : Exception(message)

fun bytesOf(file: File): ByteArray =
    try { file.readBytes() } catch (error: IOException) { throw Refused("$file cannot be read (${error.message}).") }

// ---- As much JSON as core.json and labels.json need: maps, lists, texts and numbers ----

class Json(private val text: String) {
    private var at = 0

    fun value(depth: Int = 0): Any {
        if (depth > 32) fail()
        return when (next()) {
            '{' -> LinkedHashMap<String, Any>().also { made ->
                items('}') {
                    if (next() != '"') fail()
                    val key = string()
                    if (next() != ':') fail()
                    at++
                    made[key] = value(depth + 1)
                }
            }
            '[' -> ArrayList<Any>().also { made -> items(']') { made.add(value(depth + 1)) } }
            '"' -> string()
            else -> {
                val word = text.substring(at).takeWhile { it !in ",]} \n\r\t" }
                if (word.isEmpty()) fail()
                at += word.length
                word.toDoubleOrNull() ?: word
            }
        }
    }

    private fun items(last: Char, read: () -> Unit) {
        at++
        while (next() != last) {
            read()
            if (next() == ',') at++ else if (next() != last) fail()
        }
        at++
    }

    private fun string(): String {
        val made = StringBuilder()
        at++
        while (at < text.length && text[at] != '"') {
            if (text[at] != '\\') { made.append(text[at++]); continue }
            if (at + 1 >= text.length) fail()
            if (text[at + 1] == 'u') {
                made.append((text.substring(at + 2, min(at + 6, text.length)).toIntOrNull(16) ?: fail()).toChar())
                at += 6
            } else {
                made.append(mapOf('n' to '\n', 't' to '\t', 'r' to '\r', 'b' to '\b', 'f' to '\u000C')[text[at + 1]] ?: text[at + 1])
                at += 2
            }
        }
        if (at >= text.length) fail()
        at++
        return made.toString()
    }

    private fun next(): Char {
        while (at < text.length && text[at] in " \n\r\t") at++
        return if (at < text.length) text[at] else fail()
    }

    private fun fail(): Nothing = throw Refused("core.json or labels.json is no JSON at letter $at.")
}

fun Any?.find(key: String): Any? = (this as? Map<*, *>)?.entries?.find { it.key == key }?.value

operator fun Any?.get(key: String): Any =
    find(key) ?: throw Refused("core.json has no '$key'. Export with --profiles w8,core.")

fun list(value: Any): List<*> = value as? List<*> ?: throw Refused("core.json has '$value' in place of a list.")

fun number(value: Any?): Double = value as? Double ?: throw Refused("core.json has '$value' in place of a number.")

fun sizes(value: Any): IntArray = list(value).map {
    if (number(it) < 1 || number(it) > 1e8) throw Refused("core.json has the size '$it'.") else number(it).toInt()
}.toIntArray()

// ---- The bundle: raw files and pictures ----

class Values(val shape: IntArray, val numbers: FloatArray) {
    fun row(at: Int): FloatArray = (numbers.size / shape[0]).let { numbers.copyOfRange(at * it, (at + 1) * it) }
}

fun readRaw(folder: File, header: Any?): Values {
    val file = header["file"].toString()
    val width = mapOf("uint8" to 1, "uint16" to 2, "float32" to 4)[header["dtype"].toString()]
    if (width == null || header["byte_order"] != "little" || File(file).name != file) {
        throw Refused("core.json has a header of $file that this sample does not read.")
    }
    val shape = sizes(header["shape"])
    val bytes = bytesOf(File(folder, file))
    val needed = shape.fold(width.toDouble()) { all, one -> all * one }
    if (bytes.size.toDouble() != needed || shape.isEmpty()) {
        throw Refused("$file has ${bytes.size} bytes; its header needs ${needed.toLong()}. Copy the bundle again.")
    }
    val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    return Values(shape, FloatArray(bytes.size / width) {
        when (width) {
            1 -> (buffer.get().toInt() and 0xFF).toFloat()
            2 -> (buffer.getShort().toInt() and 0xFFFF).toFloat()
            else -> buffer.getFloat()
        }
    })
}

/** Levels 0 to 255, rows from the top, channels last. */
class Picture(val height: Int, val width: Int, val channels: Int, val levels: FloatArray)

fun readPicture(path: String, wanted: Int): Picture {
    val bytes = bytesOf(File(path))
    val start = String(bytes, 0, min(bytes.size, 4096), Charsets.ISO_8859_1)
    val gap = "(?:\\s|#[^\\n]*\\n)+"
    val header = Regex("P([56])$gap(\\d{1,8})$gap(\\d{1,8})$gap(\\d{1,5})\\s").matchAt(start, 0)
    val (width, height, largest) = header?.groupValues?.drop(2)?.map { it.toLong() } ?: listOf(0L, 0L, 0L)
    if (header == null || largest != 255L || width * height !in 1..(1L shl 26)) {
        throw Refused("$path is no binary PGM or PPM of 8 bits with 1 to 67108864 pixels.")
    }
    val channels = if (header.groupValues[1] == "6") 3 else 1
    if (channels != wanted) throw Refused("$path has $channels channels; the student takes $wanted.")
    val count = (width * height).toInt() * channels
    val first = header.value.length
    if (bytes.size - first < count) throw Refused("$path is cut off: it has ${bytes.size - first} bytes of pixels.")
    return Picture(height.toInt(), width.toInt(), channels, FloatArray(count) { (bytes[first + it].toInt() and 0xFF).toFloat() })
}

// ---- The front end `image`, as core.json tells it in words ----

/** For each of `num` numbers the pixels that it is made of, of `pixels`: whole blocks, or a linear filter. */
fun sharesOf(num: Int, pixels: Int, blocks: Boolean): List<List<Pair<Int, Double>>> {
    val zoom = pixels.toDouble() / num
    val reach = max(zoom, 1.0)
    return List(num) { i ->
        val centre = (i + 0.5) * zoom
        val parts = (max(0, floor(centre - reach).toInt() - 1)..min(pixels - 1, (centre + reach).toInt() + 1)).map { j ->
            val gap = abs(j + 0.5 - centre)
            j to if (blocks) (if (gap < zoom / 2) 1.0 else 0.0) else max(0.0, 1 - gap / reach)
        }.filter { it.second > 0 }
        val total = parts.sumOf { it.second }
        parts.map { (j, share) -> j to share / total }
    }
}

fun see(picture: Picture, numbers: Any): FloatArray {
    val fit = numbers.find("fit")
    val side = sizes(listOf(numbers["image_size"]))[0]
    val (offset, scale) = number(numbers["offset"]) to number(numbers["scale"])
    val short = min(picture.height, picture.width)
    val (height, width) = if (fit == "crop") short to short else picture.height to picture.width
    val (top, left) = (picture.height - height) / 2 to (picture.width - width) / 2
    val long = max(height, width).toLong()
    val (rows, columns) = listOf(height, width).map {
        if (fit == "pad") max(1, ((2L * side * it + long) / (2 * long)).toInt()) else side
    }
    val blocks = height % rows == 0 && width % columns == 0
    val (down, across) = sharesOf(rows, height, blocks) to sharesOf(columns, width, blocks)
    val scaled = FloatArray(picture.channels * side * side) { ((1 - offset) / scale).toFloat() } // white
    for (channel in 0 until picture.channels) {
        for (row in 0 until rows) {
            val line = DoubleArray(width)
            for ((y, share) in down[row]) {
                for (x in 0 until width) {
                    line[x] += share * picture.levels[((top + y) * picture.width + left + x) * picture.channels + channel]
                }
            }
            for (column in 0 until columns) {
                val level = floor(across[column].sumOf { (x, share) -> share * line[x] } + 0.501)
                val place = (channel * side + (side - rows) / 2 + row) * side + (side - columns) / 2 + column
                scaled[place] = ((level / 255 - offset) / scale).toFloat()
            }
        }
    }
    return scaled
}

// ---- The student: float32 (1, channels, side, side) to its outputs by name ----

class Student(folder: File, record: Any) {
    private val environment: OrtEnvironment = OrtEnvironment.getEnvironment()
    private val session: OrtSession = environment.createSession(File(folder, record["model"].toString()).path, OrtSession.SessionOptions())
    private val input = record["input"]["name"].toString()
    private val shape = sizes(record["input"]["shape"])
    val names: List<String> = list(record["outputs"]).map { it["name"].toString() }

    fun run(scaled: FloatArray): Map<String, FloatArray> {
        val needed = shape.fold(1) { all, one -> all * one }
        if (scaled.size != needed) throw Refused("The input has ${scaled.size} numbers; the core takes $needed.")
        val sizes = shape.map { it.toLong() }.toLongArray()
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(scaled), sizes).use { tensor ->
            session.run(mapOf(input to tensor)).use { result ->
                return names.associateWith { name ->
                    val values = (result.get(name).get() as OnnxTensor).floatBuffer
                    FloatArray(values.remaining()).also { values.get(it) }
                }
            }
        }
    }
}

fun gapOf(found: FloatArray, expected: FloatArray): Double {
    if (found.size != expected.size) return Double.POSITIVE_INFINITY
    return found.indices.maxOfOrNull { i ->
        abs(found[i].toDouble() - expected[i]).let { if (it.isFinite()) it else Double.POSITIVE_INFINITY }
    } ?: 0.0
}

/** Compares preprocessing and student, apart, with the golden files. */
fun check(folder: File, record: Any, student: Student) {
    val front = record["front_end"]["name"]
    for (case in list(record["cases"])) {
        val arrays = list(case["arrays"]).associate { it["name"].toString() to readRaw(folder, it) }
        val scaled = arrays.getValue("scaled")
        var seen = 0.0
        var given = 0.0
        for (row in 0 until scaled.shape[0]) {
            if (front == "image") {
                val raw = arrays.getValue("image")
                val picture = Picture(raw.shape[1], raw.shape[2], raw.shape[3], raw.row(row))
                seen = max(seen, gapOf(see(picture, record["front_end"]["numbers"]), scaled.row(row)))
            }
            val found = student.run(scaled.row(row))
            for (name in student.names) given = max(given, gapOf(found.getValue(name), arrays.getValue(name).row(row)))
        }
        val told = if (front == "image") "differs by ${short(seen)}" else "($front) is not checked"
        println("${case["name"]}: preprocessing $told, student by ${short(given)}")
        if (!(seen <= number(record["tolerance"]["scaled"]) && given <= number(record["tolerance"]["outputs"]))) {
            throw Refused("The golden values of ${case["name"]} differ by more than core.json allows.", 6)
        }
    }
}

fun short(value: Double): String = String.format(Locale.ROOT, "%.2e", value)

/** The picture's nearest classes: of the examples, else the trained ones. */
fun answer(folder: File, record: Any, student: Student, words: List<String>): String {
    val front = record["front_end"]
    if (front["name"] != "image") throw Refused("The front end ${front["name"]} is not in this sample; its steps are in core.json.")
    val channels = sizes(listOf(front["numbers"]["channels"]))[0]
    fun embed(path: String) = student.run(see(readPicture(path, channels), front["numbers"]))
    val found = embed(words[0])
    val embedding = found.getValue("embedding")
    val examples = words.drop(1).groupBy({ it.substringBefore("=") }) { word ->
        if (word.indexOf('=') < 1) throw Refused("$word is no CLASS=example.pgm.")
        embed(word.substringAfter("=")).getValue("embedding")
    }
    val trained = found["scores"]
    val scores = if (examples.isNotEmpty()) {
        examples.map { (name, rows) ->
            val sum = DoubleArray(embedding.size) { d -> rows.sumOf { it[d].toDouble() } }
            name to sum.indices.sumOf { sum[it] * embedding[it] } / sqrt(sum.sumOf { it * it })
        }
    } else if (trained != null) {
        list(Json(String(bytesOf(File(folder, "labels.json")))).value()).map { it.toString() }.zip(trained.map { it.toDouble() })
    } else {
        return "${words[0]}: first values " + embedding.take(4).joinToString(" ") { String.format(Locale.ROOT, "%+.4f", it) }
    }
    return "${words[0]}: " + scores.sortedByDescending { it.second }.take(3)
        .joinToString(", ") { (name, score) -> "$name " + String.format(Locale.ROOT, "%.4f", score) }
}

fun main(words: Array<String>) {
    try {
        if (words.isEmpty()) throw Refused("Give a bundle: EmbedKt BUNDLE [picture.pgm [CLASS=example.pgm ...]]")
        val folder = File(words[0])
        val record = Json(String(bytesOf(File(folder, "core.json")))).value()
        if (record["format"] != "1") throw Refused("core.json has format ${record["format"]}; this sample reads 1. Take that edgecmd's sample.")
        val student = Student(folder, record)
        check(folder, record, student)
        if (words.size > 1) println(answer(folder, record, student, words.drop(1)))
    } catch (error: Refused) {
        System.err.println("error: ${error.message}")
        exitProcess(error.code)
    } catch (error: OrtException) {
        System.err.println("error: this cannot be computed: ${error.message?.lines()?.first()}")
        exitProcess(2)
    } catch (error: RuntimeException) { // a list that is too short, a word where a list should be
        System.err.println("error: core.json is not as this sample reads it (${error.message?.lines()?.first()}).")
        exitProcess(2)
    }
    exitProcess(0)
}
