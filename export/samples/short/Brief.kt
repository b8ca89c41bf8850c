// Calls the student of an edgecmd bundle in Kotlin: golden inputs in, and how far its embeddings are from theirs.
// It needs a bundle of `edgecmd export RUN --profiles w8,core` and ONNX Runtime for Java: on Android
// com.microsoft.onnxruntime:onnxruntime-android, on a computer com.microsoft.onnxruntime:onnxruntime.
//
//   kotlinc Brief.kt -cp onnxruntime.jar -include-runtime -d brief.jar
//   java -cp brief.jar:onnxruntime.jar BriefKt BUNDLE
//
// What makes the input of a picture is in Embed.kt, a folder above, as are the checks of a bundle.
// Exit codes: 0 all well; 2 a file cannot be used; 6 an embedding differs by more than core.json allows.
// Checked: compiled, and run with a stand-in for ai.onnxruntime that computes in Python
// (tests/export/test_samples_phones.py). Not run with the real library, nor on a phone.
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import kotlin.math.abs
import kotlin.system.exitProcess

/** Little-endian float32, rows first. */
fun readFloats(file: File): FloatArray {
    val bytes = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN)
    require(bytes.remaining() % 4 == 0) { "${file.name} has ${bytes.remaining()} bytes" }
    return FloatArray(bytes.remaining() / 4).also { bytes.asFloatBuffer().get(it) }
}

fun compare(folder: String): Int {
    val json = File(folder, "core.json").readText()
    // In place of a reader of JSON, which Android has as org.json.
    fun find(pattern: String) = requireNotNull(Regex(pattern).find(json)) { "core.json lacks $pattern" }.groupValues[1]
    find("\"format\":\\s*\"(1)\"")
    val allowed = find("\"outputs\":\\s*([0-9.e+-]+)").toDouble() // of "tolerance"
    val shape = find("\"input\":\\s*\\{[^}]*\"shape\":\\s*\\[([^]]+)]").split(",").map { it.trim().toLong() }.toLongArray()
    val first = find("\"(core\\.[^\"/]+\\.)scaled\\.raw\"")
    val (scaled, expected) = listOf("scaled", "embedding").map { readFloats(File(folder, "$first$it.raw")) }
    val size = shape.reduce { all, one -> all * one }.toInt()
    require(scaled.isNotEmpty() && scaled.size % size == 0) { "${first}scaled.raw is not whole inputs" }

    val environment = OrtEnvironment.getEnvironment()
    val path = File(folder, find("\"model\":\\s*\"([^\"/]+)\"")).path
    val session = environment.createSession(path, OrtSession.SessionOptions())
    val found = scaled.indices.step(size).flatMap { at -> // the core takes one input at a time
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(scaled, at, size), shape).use { tensor ->
            session.run(mapOf("scaled" to tensor)).use { result ->
                val values = (result.get("embedding").get() as OnnxTensor).floatBuffer
                List(values.remaining()) { values.get() }
            }
        }
    }

    require(found.size == expected.size) { "${first}embedding.raw has another length than the embeddings" }
    val gap = found.indices.maxOf { abs(found[it].toDouble() - expected[it]) } // not a number, if one is not
    println("differs by $gap, allowed $allowed")
    println("first values ${found.take(4).joinToString(" ")}")
    return if (gap <= allowed) 0 else 6
}

fun main(words: Array<String>) {
    try {
        exitProcess(compare(words[0]))
    } catch (error: Exception) { // of files, numbers or ONNX Runtime
        System.err.println("error: this is no bundle that Brief.kt reads (${error.message?.lines()?.first()}).")
        exitProcess(2)
    }
}
