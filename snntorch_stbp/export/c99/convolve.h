
/* Event driven: every value that is not zero adds its rows of weights, [tap][channel][sum], to the
   sums of the windows that it lies in. A linear layer has one tap and one window. */
static void snn_convolve_@KIND@(const snn_shape *g, const @TYPE@ *weights, size_t stride,
                                const snn_value *x, int32_t *sum)
{
    const int32_t group = g->channels / g->groups, count = g->sums / g->groups;
    int32_t y, z, ky, kx, c;
    memset(sum, 0, (size_t)(g->rows * g->columns * g->sums) * sizeof *sum);
    for (y = 0; y < g->height; y++)
        for (z = 0; z < g->width; z++, x += g->channels)
            for (ky = 0; ky < g->kernel[0]; ky++) {
                const int32_t row = snn_window(g, 0, y, ky);
                if (row < 0)
                    continue;
                for (kx = 0; kx < g->kernel[1]; kx++) {
                    const int32_t column = snn_window(g, 1, z, kx);
                    const int32_t tap = (ky * g->kernel[1] + kx) * g->channels;
                    int32_t *window;
                    if (column < 0)
                        continue;
                    window = sum + (row * g->columns + column) * g->sums;
                    for (c = 0; c < g->channels; c++)
                        if (x[c])
                            snn_add_@KIND@(weights + (size_t)(tap + c) * stride, x[c], count,
                                           window + c / group * count);
                }
            }
}
