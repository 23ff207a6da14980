"""Prints the include options of torch and Python, for clang-tidy."""

import sysconfig

from torch.utils import cpp_extension

for path in [*cpp_extension.include_paths(), sysconfig.get_path("include")]:
    print(f"-isystem{path}")
