#!/bin/sh
# Compiles Churn.java, with the compiler that Debian's headless runtime has as a module, and becomes it.
set -eu
java -m jdk.compiler/com.sun.tools.javac.Main -d /tmp /programs/Churn.java
exec java -XX:+UseG1GC -Xmx64m -cp /tmp Churn
