#define SAB_ISA avx512
#include "model/fast/kernels.h"
