
/* Sums or maxima over windows. */
static void snn_pool(const snn_shape *g, int maximum, const snn_value *x, snn_value *pooled)
{
    int32_t row, column, channel, ky, kx;
    for (row = 0; row < g->rows; row++)
        for (column = 0; column < g->columns; column++)
            for (channel = 0; channel < g->channels; channel++) {
                snn_value result = 0;
                for (ky = 0; ky < g->kernel[0]; ky++)
                    for (kx = 0; kx < g->kernel[1]; kx++) {
                        const int32_t y = row * g->stride[0] + ky * g->dilation[0];
                        const int32_t z = column * g->stride[1] + kx * g->dilation[1];
                        const snn_value value = x[(y * g->width + z) * g->channels + channel];
                        if (!maximum)
                            result = (snn_value)(result + value);
                        else if (value > result)
                            result = value;
                    }
                *pooled++ = result;
            }
}
