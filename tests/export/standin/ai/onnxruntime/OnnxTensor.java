package ai.onnxruntime;

import java.nio.FloatBuffer;

public class OnnxTensor implements OnnxValue {
  final float[] numbers;
  final long[] shape;

  OnnxTensor(float[] numbers, long[] shape) {
    this.numbers = numbers;
    this.shape = shape;
  }

  public static OnnxTensor createTensor(OrtEnvironment environment, FloatBuffer data, long[] shape)
      throws OrtException {
    float[] numbers = new float[data.remaining()];
    data.duplicate().get(numbers);
    return new OnnxTensor(numbers, shape);
  }

  public FloatBuffer getFloatBuffer() {
    return FloatBuffer.wrap(numbers);
  }

  @Override
  public void close() {}
}
