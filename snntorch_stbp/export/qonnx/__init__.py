"""QONNX graphs of frozen, fixed-point and as-trained networks.

`frozen.build` walks any of the three, layer by layer and step by step, with the parts that it is
given: `PARTS` of `fixed` and of `as_trained`, `FROZEN` of its own. `sums`, `currents`, `inhibition`
and the two kinds of `neurons` write what lies in a layer; `page` and `writer` are the graph in the
making.
"""
