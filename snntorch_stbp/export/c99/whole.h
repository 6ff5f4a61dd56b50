
/* Adds value * weight over `count` channels. */
static void snn_add_@KIND@(const @TYPE@ *restrict w, int32_t value, int32_t count,
                           int32_t *restrict sum)
{
    int32_t i;
    if (value == 1)
        for (i = 0; i < count; i++)
            sum[i] += w[i];
    else
        for (i = 0; i < count; i++)
            sum[i] += value * w[i];
}
