
/* @WHAT@ over windows. */
static void snn_@NAME@(const snn_shape *g, int maximum, const @TYPE@ *x, @TYPE@ *pooled)
{
    int32_t row, column, channel, ky, kx;
    for (row = 0; row < g->rows; row++)
        for (column = 0; column < g->columns; column++)
            for (channel = 0; channel < g->channels; channel++) {
                @TYPE@ result = 0;
                int first = 1;
                for (ky = 0; ky < g->kernel[0]; ky++)
                    for (kx = 0; kx < g->kernel[1]; kx++) {
                        const int32_t y = row * g->stride[0] + ky * g->dilation[0] - g->padding[0];
                        const int32_t z = column * g->stride[1] + kx * g->dilation[1] - g->padding[1];
                        @TYPE@ value;
                        if (y < 0 || y >= g->height || z < 0 || z >= g->width)
                            continue;
                        value = x[(y * g->width + z) * g->channels + channel];
                        if (!maximum)
                            result = (@TYPE@)(result + value);
                        else if (value > result || first)
                            result = value;
                        first = 0;
                    }
                *pooled++ = result;
            }
}
