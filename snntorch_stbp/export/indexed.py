"""qonnx's model, with look-ups where qonnx goes through all tensors for each question."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from qonnx.core.datatype import BaseDataType, DataType
from qonnx.core.modelwrapper import ModelWrapper


class Indexed(ModelWrapper):
    """A model whose nodes and tensors stay, while it is executed or data types are inferred.

    Data types that are set are kept beside the model; constants in other files are not read.
    """

    def __init__(self, proto: ModelProto) -> None:
        super().__init__(proto, fix_missing_initializer_valueinfo=False)
        graph = self.graph
        self._infos = {info.name: info for info in (*graph.value_info, *graph.output, *graph.input)}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for tensor in node.input:
                self._consumers[tensor].append(node)
        self._types = stated_types(proto)

    def get_tensor_valueinfo(self, tensor_name: str) -> ValueInfoProto | None:
        """What the graph says of a tensor."""
        return self._infos.get(tensor_name)

    def get_tensor_shape(
        self, tensor_name: str, fix_missing_init_shape: bool = False
    ) -> list[int] | None:
        """A tensor's shape, unknown sizes as 0; None if nothing says it."""
        info = self._infos.get(tensor_name)
        if info is not None:
            return [size.dim_value for size in info.type.tensor_type.shape.dim]
        constant = self._constants.get(tensor_name)
        return None if constant is None else list(constant.dims)

    def find_consumers(self, tensor_name: str) -> list[NodeProto]:
        """The nodes that read a tensor."""
        return self._consumers.get(tensor_name, [])

    def get_initializer(self, tensor_name: str, return_dtype: bool = False) -> Any:
        """The numbers of a constant; None for other tensors."""
        constant = self._constants.get(tensor_name)
        if constant is None or constant.data_location == TensorProto.EXTERNAL:
            return (None, None) if return_dtype else None
        value = numpy_helper.to_array(constant)
        return (value, constant.data_type) if return_dtype else value

    def get_tensor_datatype(self, tensor_name: str) -> BaseDataType:
        """The data type of a tensor: stated, inferred, or that of its container."""
        if tensor_name in self._types:
            return DataType[self._types[tensor_name]]
        info, constant = self._infos.get(tensor_name), self._constants.get(tensor_name)
        kind = constant.data_type if constant is not None else TensorProto.FLOAT
        if info is not None:
            kind = info.type.tensor_type.elem_type
        return DataType["FLOAT16" if kind == TensorProto.FLOAT16 else "FLOAT32"]

    def set_tensor_datatype(self, tensor_name: str, datatype: BaseDataType | None) -> None:
        """Note the data type of a tensor."""
        if datatype is None:
            self._types.pop(tensor_name, None)
        else:
            self._types[tensor_name] = datatype.name


def stated_types(proto: ModelProto) -> dict[str, str]:
    """Data types by tensor, as a file states them."""
    return {
        entry.tensor_name: pair.value
        for entry in proto.graph.quantization_annotation
        for pair in entry.quant_parameter_tensor_names
        if pair.key == "finn_datatype"
    }
