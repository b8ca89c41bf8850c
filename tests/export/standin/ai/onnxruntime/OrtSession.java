package ai.onnxruntime;

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;

/** As much of ONNX Runtime's session as the sample uses; what it computes comes from engine.py. */
public class OrtSession implements AutoCloseable {
  private final DataOutputStream to;
  private final DataInputStream from;

  OrtSession(String path) throws OrtException {
    try {
      ProcessBuilder builder = new ProcessBuilder(System.getProperty("python"), System.getProperty("engine"), path);
      Process process = builder.redirectError(ProcessBuilder.Redirect.DISCARD).start();
      to = new DataOutputStream(process.getOutputStream());
      from = new DataInputStream(process.getInputStream());
      String reason = from.readUTF();
      if (!reason.isEmpty()) throw new OrtException(reason);
    } catch (IOException error) {
      throw new OrtException("the stand-in does not start: " + error.getMessage());
    }
  }

  public Result run(Map<String, ? extends OnnxTensor> inputs) throws OrtException {
    try {
      Map.Entry<String, ? extends OnnxTensor> only = inputs.entrySet().iterator().next();
      to.writeUTF(only.getKey());
      to.writeInt(only.getValue().shape.length);
      for (long size : only.getValue().shape) to.writeInt((int) size);
      for (float number : only.getValue().numbers) to.writeFloat(number);
      to.flush();
      Map<String, OnnxTensor> outputs = new LinkedHashMap<>();
      for (int left = from.readInt(); left > 0; left--) {
        String name = from.readUTF();
        float[] numbers = new float[from.readInt()];
        for (int i = 0; i < numbers.length; i++) numbers[i] = from.readFloat();
        outputs.put(name, new OnnxTensor(numbers, new long[] {numbers.length}));
      }
      return new Result(outputs);
    } catch (IOException error) {
      throw new OrtException("the stand-in has ended");
    }
  }

  @Override
  public void close() {}

  public static class SessionOptions implements AutoCloseable {
    @Override
    public void close() {}
  }

  public static class Result implements AutoCloseable {
    private final Map<String, OnnxTensor> outputs;

    Result(Map<String, OnnxTensor> outputs) {
      this.outputs = outputs;
    }

    public Optional<OnnxValue> get(String name) {
      return Optional.ofNullable(outputs.get(name));
    }

    @Override
    public void close() {}
  }
}
