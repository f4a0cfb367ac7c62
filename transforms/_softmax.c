/* Softmax of float32[N, C], row by row: float64 within, rounded once at the end.

A row is read from memory once and its exponentials stay in the nearest cache, where numpy makes eight passes over a
block. Sums are made of sixteen partial ones, whatever the machine's vectors are, and nothing is contracted: a row has
the same bits on every machine and in every batch.
*/

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
/* The best instructions of the machine it runs on, not of the one it was compiled on. */
#define VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define VECTORISED
#endif

static inline double from_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint64_t to_bits(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* e**x for x <= 0, or NaN; below -708, where no float32 sees the difference, e**-708. x is n ln 2 + r with |r| at most
   ln 2 / 2, and e**r its Taylor series. */
static inline double exponential(double x) {
    const double magic = 0x1.8p52;
    x = x < -708.0 ? -708.0 : x;
    double shifted = x * 0x1.71547652b82fep0 + magic;
    double n = shifted - magic;
    double r = (x - n * 0x1.62e42fefa0000p-1) - n * 0x1.cf79abc9e3b3ap-40;
    double s = r * r;
    double even = 1.0 / 3628800 + s * (1.0 / 479001600);
    even = 1.0 + s * (1.0 / 2 + s * (1.0 / 24 + s * (1.0 / 720 + s * (1.0 / 40320 + s * even))));
    double odd = 1.0 / 362880 + s * (1.0 / 39916800);
    odd = r * (1.0 + s * (1.0 / 6 + s * (1.0 / 120 + s * (1.0 / 5040 + s * odd))));
    return (even + odd) * from_bits((to_bits(shifted) + 1023) << 52);
}

static inline double total(const double *part) {
    double sum[LANES];
    memcpy(sum, part, sizeof sum);
    for (int half = LANES / 2; half; half /= 2) {
        for (int lane = 0; lane < half; lane++) {
            sum[lane] += sum[lane + half];
        }
    }
    return sum[0];
}

static inline float strongest(const float *x, Py_ssize_t classes) {
    float best[LANES], peak = -INFINITY;
    Py_ssize_t i = 0;
    for (int lane = 0; lane < LANES; lane++) {
        best[lane] = -INFINITY;
    }
    for (; i + LANES <= classes; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            best[lane] = x[i + lane] > best[lane] ? x[i + lane] : best[lane];
        }
    }
    for (; i < classes; i++) {
        peak = x[i] > peak ? x[i] : peak;
    }
    for (int lane = 0; lane < LANES; lane++) {
        peak = best[lane] > peak ? best[lane] : peak;
    }
    return peak;
}

VECTORISED static void softmax_rows(const float *x, float *p, double *e, Py_ssize_t rows, Py_ssize_t classes) {
    for (Py_ssize_t row = 0; row < rows; row++, x += classes, p += classes) {
        double peak = strongest(x, classes), part[LANES] = {0};
        Py_ssize_t i = 0;
        if (isinf(peak) && peak > 0) {
            /* inf - inf is NaN: 0 where the row is +inf and -inf elsewhere means the same. */
            for (i = 0; i < classes; i++) {
                e[i] = isnan(x[i]) ? (double)x[i] : x[i] == INFINITY ? 1.0 : 0.0;
            }
        } else {
            for (i = 0; i < classes; i++) {
                e[i] = exponential((double)x[i] - peak);
            }
        }
        for (i = 0; i + LANES <= classes; i += LANES) {
            for (int lane = 0; lane < LANES; lane++) {
                part[lane] += e[i + lane];
            }
        }
        for (int lane = 0; i < classes; i++, lane++) {
            part[lane] += e[i];
        }
        double scale = 1.0 / total(part);
        for (i = 0; i < classes; i++) {
            p[i] = (float)(e[i] * scale);
        }
    }
}

static int is_matrix(const Py_buffer *view) {
    return view->ndim == 2 && view->shape[1] >= 1 && view->itemsize == sizeof(float) && view->format &&
           strcmp(view->format, "f") == 0;
}

static PyObject *softmax_py(PyObject *module, PyObject *arguments) {
    PyObject *logits_object, *target_object, *result = NULL;
    Py_buffer logits, target;
    double *e = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO", &logits_object, &target_object)) {
        return NULL;
    }
    if (PyObject_GetBuffer(logits_object, &logits, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(target_object, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&logits);
        return NULL;
    }
    if (!is_matrix(&logits) || !is_matrix(&target) || logits.shape[0] != target.shape[0] ||
        logits.shape[1] != target.shape[1]) {
        PyErr_SetString(PyExc_ValueError, "logits and target must be float32[N, C] of one shape, C at least 1");
    } else if (!(e = malloc((size_t)logits.shape[1] * sizeof *e))) {
        PyErr_NoMemory();
    } else {
        Py_BEGIN_ALLOW_THREADS;
        softmax_rows(logits.buf, target.buf, e, logits.shape[0], logits.shape[1]);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    free(e);
    PyBuffer_Release(&logits);
    PyBuffer_Release(&target);
    return result;
}

static PyMethodDef METHODS[] = {
    {"softmax", softmax_py, METH_VARARGS,
     "softmax(logits, target)\n\nFill target, float32[N, C], with the softmax of the rows of logits, float32[N, C].\n\n"
     "Raises:\n    ValueError: Another shape, layout or type.\n    MemoryError: Its working memory cannot be had."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_softmax", "Softmax in vectors.", -1,
                                    METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__softmax(void) { return PyModule_Create(&MODULE); }
